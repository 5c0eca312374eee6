//! What is written beside a segment that workers refused: `SEGMENT.rejected.json`, for people and for the next run.
