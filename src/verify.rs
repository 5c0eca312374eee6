//! Verifies that stored bundles are still what their receipts said: every byte, every count and every record.
//!
//! Of each bundle, it reads all bytes and checks every checksum. It decodes every frame and looks up every
//! record in the index, by its number and by its contents. It compares all counts with the manifest. If all
//! bundles of a segment are given, it restores the segment and compares its hash.
//!
//! A fault of a bundle is a [`Finding`]. An error means that there is no result.

mod check;
mod probe;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::archive::{Archive, ArchiveError, ArchiveErrorKind, Source, full_scan, open_index};
use crate::ids::LogId;
use crate::rate_limit::RateLimit;
use crate::restore::{self, Plan, RestoreError};
use crate::store::{Listed, Store};

use check::Check;

/// A fault of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The bundle's key.
    pub bundle: String,
    /// What is wrong.
    pub what: String,
}

/// A verified bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The bundle's key.
    pub bundle: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The number of data records in it. If there are no findings, all of them were found in the index.
    pub records: u64,
    /// The number of lookups of terms that found their records.
    pub terms: u64,
    /// The number of frames for each kind of anomaly, as in the receipt. A frame with an anomaly breaks its
    /// format, but is decoded all the same.
    pub anomalies: BTreeMap<String, u64>,
    /// The number of frames that were not decoded, as in the receipt. Only their bytes were checked.
    pub undecoded_frames: u64,
}

/// The outcome of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// All bundles that were verified.
    pub bundles: Vec<Checked>,
    /// All faults; empty if there are none.
    pub findings: Vec<Finding>,
    /// The number of segments that were restored with the right hash.
    pub segments_whole: u64,
    /// The number of segments of which not all bundles were given.
    pub segments_partly: u64,
}

/// The outcome for one segment.
enum Segment {
    Whole,
    /// Not all of its bundles were given.
    Partly,
    Broken(Finding),
}

impl Outcome {
    fn add(&mut self, segment: Segment, progress: &impl Fn(Progress<'_>)) {
        match segment {
            Segment::Whole => self.segments_whole += 1,
            Segment::Partly => self.segments_partly += 1,
            Segment::Broken(finding) => {
                progress(Progress::Segment(&finding));
                self.findings.push(finding);
            }
        }
    }
}

/// The reasons why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A bundle cannot be reached.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A segment cannot be restored on this machine.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// The options of a verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Whether the bundles are all bundles of the store. Then a missing bundle of a segment is a finding.
    pub all: bool,
    /// The limit for reading, in bytes per second; `None` for no limit. Segments of several partitions are
    /// read a second time, to restore them.
    pub bytes_per_second: Option<NonZeroU64>,
}

/// An event during a verification.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// This many more bytes were checked.
    Bytes(u64),
    /// A bundle was verified, with these findings.
    Bundle(&'a Checked, &'a [Finding]),
    /// The segment of a bundle cannot be restored.
    Segment(&'a Finding),
}

/// Verifies each of these bundles. A bundle with faults does not stop the verification of the others.
pub async fn verify(
    store: &Store,
    bundles: &[Listed],
    options: VerifyOptions,
    progress: impl Fn(Progress<'_>),
) -> Result<Outcome, VerifyError> {
    let (mut outcome, rate_limit) = (Outcome::default(), RateLimit::new(options.bytes_per_second));
    let mut segments: BTreeMap<([u8; 32], LogId), Vec<Arc<Archive>>> = BTreeMap::new();
    let read = async |bytes| {
        progress(Progress::Bytes(bytes));
        rate_limit.wait(bytes).await;
    };
    for listed in bundles {
        let bundle = listed.key.to_string();
        let (checked, wrong) = match verify_bundle(store, listed, &rate_limit, &read).await {
            Ok((archive, checked, wrong)) => {
                if archive.manifest().segment.partitions == 1 {
                    // The bundle is the whole segment.
                    let segment = verify_segment(vec![Arc::new(archive)], options.all, &rate_limit).await?;
                    outcome.add(segment, &progress);
                } else {
                    let segment = (archive.manifest().segment.sha256, archive.log_id().clone());
                    segments.entry(segment).or_default().push(Arc::new(archive));
                }
                (checked, wrong)
            }
            Err(error) if is_finding(&error) => {
                let (bundle, size_bytes) = (bundle.clone(), listed.size_bytes);
                let checked = Checked { bundle, size_bytes, ..Checked::default() };
                (checked, vec![error.fault().to_string()])
            }
            Err(error) => return Err(error.into()),
        };
        let findings: Vec<_> =
            wrong.into_iter().map(|what| Finding { bundle: bundle.clone(), what }).collect();
        progress(Progress::Bundle(&checked, &findings));
        outcome.bundles.push(checked);
        outcome.findings.extend(findings);
    }
    for archives in segments.into_values().flat_map(sets) {
        let segment = verify_segment(archives, options.all, &rate_limit).await?;
        outcome.add(segment, &progress);
    }
    Ok(outcome)
}

/// Returns whether an error is a fault of the bundle, not of the store. A bundle of a later release is a
/// finding too: this build cannot say that it is sound.
fn is_finding(error: &ArchiveError) -> bool {
    match error.kind() {
        ArchiveErrorKind::NotFound | ArchiveErrorKind::Corrupt | ArchiveErrorKind::Unsupported => true,
        ArchiveErrorKind::Denied | ArchiveErrorKind::Unavailable | ArchiveErrorKind::Bug => false,
    }
}

async fn verify_bundle(
    store: &Store,
    listed: &Listed,
    rate_limit: &RateLimit,
    read: &impl AsyncFn(u64),
) -> Result<(Archive, Checked, Vec<String>), ArchiveError> {
    let archive = Archive::open(Source::listed(store, listed)).await?;
    let check = Check::new(&archive, open_index(&archive).await?);
    // The index was read separately, before the scan.
    rate_limit.wait(archive.traffic().bytes).await;
    let (_, check) = full_scan(archive.source(), check, read).await?;
    let concluded = archive.blocking(move || check.conclude()).await?;
    let concluded = concluded.map_err(|fault| archive.error(fault))?;
    let checked = Checked {
        bundle: archive.name(),
        size_bytes: listed.size_bytes,
        records: archive.manifest().record_count,
        terms: concluded.terms,
        anomalies: archive.manifest().anomalies.clone(),
        undecoded_frames: archive.manifest().undecoded.frames,
    };
    Ok((archive, checked, concluded.wrong))
}

/// Groups a segment's bundles into sets that each make up the segment, if all bundles are there. Each bundle
/// is in at least one set.
///
/// There are several sets if the same bytes were stored under several names: if the caller gives the topic,
/// the bytes do not contain it. Bundles with the same bytes begin at the same position in the source.
fn sets(archives: Vec<Arc<Archive>>) -> Vec<Vec<Arc<Archive>>> {
    let mut by_start: BTreeMap<u64, Vec<Arc<Archive>>> = BTreeMap::new();
    for archive in archives {
        let start = archive.blocks().entries().first().map_or(0, |entry| entry.source_position);
        by_start.entry(start).or_default().push(archive);
    }
    let count = by_start.values().map(Vec::len).max().unwrap_or(0);
    let nth_of = |same: &Vec<Arc<Archive>>, nth: usize| Arc::clone(&same[nth.min(same.len() - 1)]);
    (0..count).map(|nth| by_start.values().map(|same| nth_of(same, nth)).collect()).collect()
}

/// Restores a segment, if all its bundles are there. A segment with one partition is not restored: the scan
/// of its bundle has checked its hash.
async fn verify_segment(
    archives: Vec<Arc<Archive>>,
    all: bool,
    rate_limit: &RateLimit,
) -> Result<Segment, VerifyError> {
    let bundle = archives[0].name();
    let written = match Plan::new(archives) {
        Ok(plan) if plan.segment().partitions == 1 => Ok(()),
        Ok(plan) => {
            rate_limit.wait(plan.compressed_bytes()).await;
            restore::rehearse(&plan).await
        }
        Err(error) => Err(error),
    };
    match written {
        Ok(()) => Ok(Segment::Whole),
        Err(RestoreError::Missing { .. }) if !all => Ok(Segment::Partly),
        Err(RestoreError::Archive(error)) if !is_finding(&error) => Err(error.into()),
        Err(error @ (RestoreError::Write { .. } | RestoreError::Panicked)) => Err(error.into()),
        Err(
            error @ (RestoreError::NoBundles
            | RestoreError::Archive(_)
            | RestoreError::OtherSegment { .. }
            | RestoreError::SamePartition { .. }
            | RestoreError::Missing { .. }
            | RestoreError::TooMany { .. }
            | RestoreError::Hole { .. }
            | RestoreError::Overlap { .. }
            | RestoreError::HashDiffers { .. }),
        ) => {
            let what = format!("its segment cannot be restored: {error}");
            Ok(Segment::Broken(Finding { bundle, what }))
        }
    }
}

#[cfg(test)]
mod tests;
