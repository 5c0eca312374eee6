//! Whether stored bundles still are what their receipts said: every byte, every count, every record found again.
//!
//! Of each bundle all bytes are read and every checksum is checked; every frame is decoded and every record looked up in the index, by
//! its number and by what it holds; what was counted is held against the manifest. A segment whose bundles are all at hand is put
//! together again, and its hash compared.
//!
//! What is wrong with a bundle is a [`Finding`]; an error means that nothing can be said.

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

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The bundle's key.
    pub bundle: String,
    /// What is wrong.
    pub what: String,
}

/// A bundle that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The bundle's key.
    pub bundle: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Data records in it, all of them found again if nothing is wrong.
    pub records: u64,
    /// Terms that were looked for and led to their records.
    pub terms: u64,
    /// What is not as the formats say in frames that were read all the same, as its receipt said: a number of frames for each kind.
    pub anomalies: BTreeMap<String, u64>,
    /// Frames that were not decoded, as its receipt said: their bytes were checked, and nothing else.
    pub undecoded_frames: u64,
}

/// What came out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Every bundle that was looked at.
    pub bundles: Vec<Checked>,
    /// All that is wrong; nothing, if all is well.
    pub findings: Vec<Finding>,
    /// Segments that were put together again, with the right hash.
    pub segments_whole: u64,
    /// Segments of which not all bundles were at hand.
    pub segments_partly: u64,
}

/// What became of a segment.
enum Segment {
    Whole,
    /// Not all of its bundles were at hand.
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

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A bundle is out of reach.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A segment cannot be put together here.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// How to look at bundles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrub {
    /// The bundles are all that the store has: then a segment's missing bundle is a finding.
    pub all: bool,
    /// How many bytes are read of them in a second, at most; `None`: as many as can be. Segments of several partitions are read a second
    /// time, to put them together.
    pub bytes_per_second: Option<NonZeroU64>,
}

/// What is heard on the way.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// So many bytes more were checked.
    Bytes(u64),
    /// A bundle was looked at, and this is wrong with it.
    Bundle(&'a Checked, &'a [Finding]),
    /// The segment of a bundle cannot be put together again.
    Segment(&'a Finding),
}

/// Looks at each of these bundles; one that is wrong does not keep it from the next.
pub async fn verify(
    store: &Store,
    bundles: &[Listed],
    scrub: Scrub,
    progress: impl Fn(Progress<'_>),
) -> Result<Outcome, VerifyError> {
    let (mut outcome, pace) = (Outcome::default(), RateLimit::new(scrub.bytes_per_second));
    let mut segments: BTreeMap<([u8; 32], LogId), Vec<Arc<Archive>>> = BTreeMap::new();
    let read = async |bytes| {
        progress(Progress::Bytes(bytes));
        pace.wait(bytes).await;
    };
    for listed in bundles {
        let bundle = listed.key.to_string();
        let (checked, wrong) = match verify_bundle(store, listed, &pace, &read).await {
            Ok((archive, checked, wrong)) => {
                if archive.manifest().segment.partitions == 1 {
                    // It is all of its segment.
                    let segment = verify_segment(vec![Arc::new(archive)], scrub.all, &pace).await?;
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
        let segment = verify_segment(archives, scrub.all, &pace).await?;
        outcome.add(segment, &progress);
    }
    Ok(outcome)
}

/// The bundle's own fault, as against a store that is away. One that this build cannot read is none that it may call sound.
fn is_finding(error: &ArchiveError) -> bool {
    match error.kind() {
        ArchiveErrorKind::NotFound | ArchiveErrorKind::Corrupt | ArchiveErrorKind::Unsupported => true,
        ArchiveErrorKind::Denied | ArchiveErrorKind::Unavailable | ArchiveErrorKind::Bug => false,
    }
}

async fn verify_bundle(
    store: &Store,
    listed: &Listed,
    pace: &RateLimit,
    read: &impl AsyncFn(u64),
) -> Result<(Archive, Checked, Vec<String>), ArchiveError> {
    let archive = Archive::open(Source::listed(store, listed)).await?;
    let check = Check::new(&archive, open_index(&archive).await?);
    // The index is read by itself first.
    pace.wait(archive.traffic().bytes).await;
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

/// Sets of a segment's bundles that make it up, if all are there; each bundle is in one of them at least. There are several where the
/// same bytes were stored under several names, for a topic that the caller gives is no part of them: such bundles begin at the same byte.
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

/// Puts a segment together again, if all of it is there. That of one partition was hashed on the way.
async fn verify_segment(
    archives: Vec<Arc<Archive>>,
    all: bool,
    pace: &RateLimit,
) -> Result<Segment, VerifyError> {
    let bundle = archives[0].name();
    let written = match Plan::new(archives) {
        Ok(plan) if plan.segment().partitions == 1 => Ok(()),
        Ok(plan) => {
            pace.wait(plan.compressed_bytes()).await;
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
