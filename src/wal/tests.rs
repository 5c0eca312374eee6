//! Real files in real directories.
