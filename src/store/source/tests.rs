use std::fs;
use std::os::unix::fs::symlink;

use object_store::{ObjectStoreExt, PutPayload};
use tempfile::TempDir;

use super::*;

/// `outside/secret`, `root/a b/segment`, and links from the root to both.
fn tree() -> (TempDir, SourceRoots, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    fs::create_dir_all(base.join("root/a b")).unwrap();
    fs::create_dir_all(base.join("root-other")).unwrap();
    fs::create_dir_all(base.join("outside")).unwrap();
    fs::write(base.join("outside/secret"), b"secret").unwrap();
    fs::write(base.join("root-other/secret"), b"secret").unwrap();
    fs::write(base.join("root/a b/segment"), b"0123456789").unwrap();
    symlink(base.join("outside/secret"), base.join("root/leaves")).unwrap();
    symlink(base.join("outside"), base.join("root/leaves-by-directory")).unwrap();
    symlink("a b/segment", base.join("root/stays")).unwrap();
    symlink(base.join("root"), base.join("alias")).unwrap();
    let roots = SourceRoots::new(&[Url::from_directory_path(base.join("root")).unwrap()]).unwrap();
    (dir, roots, base)
}

fn url(base: &std::path::Path, path: &str) -> String {
    format!("file://{}/{path}", base.display())
}

async fn contents(source: &Source) -> Result<Vec<u8>, SourceError> {
    source
        .read()
        .try_fold(Vec::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
}

#[tokio::test]
async fn a_file_under_a_root_is_read_also_over_a_link_that_stays_inside() {
    let (_dir, roots, base) = tree();
    for path in ["root/a%20b/segment", "root/stays"] {
        let source = roots.open(&url(&base, path), Some(10)).await.unwrap();
        assert_eq!(contents(&source).await.unwrap(), b"0123456789", "{path}");
    }
    // A root may be given by a path with a link. Both spellings of the root are accepted.
    let roots = SourceRoots::new(&[Url::from_directory_path(base.join("alias")).unwrap()]).unwrap();
    for path in ["alias/stays", "root/stays"] {
        assert!(roots.open(&url(&base, path), None).await.is_ok(), "{path}");
    }
}

#[tokio::test]
async fn what_is_outside_is_outside_whether_it_exists_or_not() {
    let (_dir, roots, base) = tree();
    for path in [
        "outside/secret",
        "outside/no-such-file",
        "root-other/secret",
        "root/leaves",
        "root/leaves-by-directory/secret",
        "no-such-directory/x",
    ] {
        let error = roots.open(&url(&base, path), None).await.unwrap_err();
        assert_eq!(error, SourceError::OutsideRoots, "{path}");
    }
    let none = SourceRoots::default();
    assert_eq!(none.open(&url(&base, "root/stays"), None).await.unwrap_err(), SourceError::OutsideRoots);
    let clouds = ["s3://bucket/x", "gs://bucket/x", "az://container/x"];
    let clouds = clouds.into_iter().filter(|_| cfg!(feature = "clouds"));
    for elsewhere in clouds.chain(["memory:///x"]) {
        let error = roots.open(elsewhere, None).await.unwrap_err();
        assert_eq!(error, SourceError::OutsideRoots, "{elsewhere}");
    }
}

#[tokio::test]
async fn a_link_swapped_in_after_the_check_does_not_open_the_door() {
    let (_dir, _, base) = tree();
    let roots = [base.join("root")];
    // The result of a race: the open file is the secret, and the checked name is under the root.
    let file = fs::File::open(base.join("outside/secret")).unwrap();
    let metadata = file.metadata().unwrap();
    let real = base.join("root/a b/segment");
    assert!(!file::leads_to(&file, &metadata, &real, &roots));
    // Now the name also leads to the secret.
    fs::hard_link(base.join("outside/secret"), base.join("root/hard")).unwrap();
    assert!(!file::leads_to(&file, &metadata, &base.join("root/hard"), &roots));
    let file = fs::File::open(&real).unwrap();
    assert!(file::leads_to(&file, &file.metadata().unwrap(), &real, &roots));
}

#[tokio::test]
async fn tricks_in_the_spelling_are_refused_before_anything_is_looked_at() {
    let (_dir, roots, base) = tree();
    for path in [
        "root/../outside/secret",
        "root/./stays",
        "root/%2e%2e/outside/secret",
        "root/.%2E/outside/secret",
        "root/..%2foutside%2fsecret",
        "root/..%5coutside",
        "root\\..\\outside/secret",
        "root/stays%00",
        "root/\tstays",
        "root/stays\n",
        "root/stays ",
    ] {
        let error = roots.open(&url(&base, path), None).await.unwrap_err();
        assert_eq!(error, SourceError::Location(SourceUrlError::Tricks), "{path}");
    }
    // Decoded once, this is an ordinary name, and no such file exists.
    let twice = roots.open(&url(&base, "root/%252e%252e/outside/secret"), None).await.unwrap_err();
    assert!(matches!(twice, SourceError::NotFound { .. }), "{twice}");
}

#[tokio::test]
async fn what_is_no_location_of_a_file_is_said_so() {
    let (_dir, roots, base) = tree();
    let check = async |url: &str, want: SourceUrlError| {
        assert_eq!(roots.open(url, None).await.unwrap_err(), SourceError::Location(want), "{url}");
    };
    check("stays", SourceUrlError::Url).await;
    check("", SourceUrlError::Url).await;
    check("http://host/x", LocationError::Scheme { scheme: "http".to_owned() }.into()).await;
    check("s3://user:secret@bucket/x", LocationError::Extra.into()).await;
    check("s3://bucket/x?versionId=1", LocationError::Extra.into()).await;
    check("s3://bucket", SourceUrlError::NotAFile).await;
    check(&url(&base, "root/a%20b/"), SourceUrlError::NotAFile).await;
    check(&url(&base, "root/a%20b"), SourceUrlError::NotAFile).await;
}

#[tokio::test]
async fn a_missing_file_and_a_wrong_size_are_told_apart() {
    let (_dir, roots, base) = tree();
    let missing = url(&base, "root/missing");
    let error = roots.open(&missing, None).await.unwrap_err();
    assert_eq!(error, SourceError::NotFound { url: missing });
    let stays = url(&base, "root/stays");
    let error = roots.open(&stays, Some(9)).await.unwrap_err();
    assert_eq!(error, SourceError::SizeMismatch { url: stays, declared: 9, actual: 10 });
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_an_error() {
    let (_dir, roots, base) = tree();
    let (path, at) = (base.join("root/a b/segment"), url(&base, "root/stays"));
    let changed = Err(SourceError::Changed { url: at.clone() });

    let source = roots.open(&at, None).await.unwrap();
    fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut f| std::io::Write::write_all(&mut f, b"x"))
        .unwrap();
    assert_eq!(contents(&source).await, changed, "longer");

    let source = roots.open(&at, None).await.unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(3).unwrap();
    assert_eq!(contents(&source).await, changed, "shorter");

    // A rename does not change the file that was opened.
    let source = roots.open(&at, None).await.unwrap();
    fs::write(base.join("root/new"), b"new").unwrap();
    fs::rename(base.join("root/new"), &path).unwrap();
    assert_eq!(contents(&source).await.unwrap(), b"012");
}

async fn bucket(prefix: &str, objects: &[(&str, Bytes)]) -> (SourceRoots, Store) {
    let store = Store::open(&Url::parse(&format!("memory:///{prefix}")).unwrap()).unwrap();
    for (key, bytes) in objects {
        store.objects.put(&Path::parse(key).unwrap(), PutPayload::from_bytes(bytes.clone())).await.unwrap();
    }
    (SourceRoots::of_store(store.clone()), store)
}

#[tokio::test]
async fn an_object_is_read_in_order_whatever_its_size() {
    for len in [0, 1, RANGE_BYTES - 1, RANGE_BYTES, RANGE_BYTES + 1, 5 * RANGE_BYTES + 7] {
        let bytes: Bytes = (0..len).map(|i| ((i * 31) >> 7) as u8).collect();
        let (roots, _) = bucket("wal", &[("wal/0001.log", bytes.clone())]).await;
        let source = roots.open("memory:///wal/0001.log", Some(len)).await.unwrap();
        let chunks: Vec<Bytes> = source.read().try_collect().await.unwrap();
        assert!(chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() as u64 <= RANGE_BYTES));
        assert!(chunks.concat() == bytes, "{len}");
    }
}

#[tokio::test]
async fn a_prefix_matches_whole_segments_only() {
    let bytes = Bytes::from_static(b"x");
    let objects = [("wal/a", bytes.clone()), ("wal-other/a", bytes.clone()), ("wal", bytes)];
    let (roots, _) = bucket("wal", &objects).await;
    assert!(roots.open("memory:///wal/a", None).await.is_ok());
    for outside in ["memory:///wal-other/a", "memory:///wal", "memory:///WAL/a", "memory:///a"] {
        assert_eq!(roots.open(outside, None).await.unwrap_err(), SourceError::OutsideRoots, "{outside}");
    }
    let missing = roots.open("memory:///wal/b", None).await.unwrap_err();
    assert_eq!(missing, SourceError::NotFound { url: "memory:///wal/b".to_owned() });
}

#[tokio::test]
async fn an_object_that_is_replaced_while_it_is_read_is_an_error() {
    let old: Bytes = vec![1; 6 * RANGE_BYTES as usize].into();
    let (roots, store) = bucket("wal", &[("wal/a", old.clone())]).await;
    let source = roots.open("memory:///wal/a", None).await.unwrap();
    let mut chunks = source.read();
    assert!(chunks.next().await.unwrap().is_ok());
    let new = PutPayload::from_bytes(vec![2; old.len()].into());
    store.objects.put(&Path::parse("wal/a").unwrap(), new).await.unwrap();
    let rest: Vec<_> = chunks.collect().await;
    let changed = SourceError::Changed { url: "memory:///wal/a".to_owned() };
    assert_eq!(rest.last().unwrap(), &Err(changed.clone()));
    let bytes = rest.iter().flatten().flat_map(|chunk| chunk.iter());
    assert!(bytes.copied().all(|byte| byte == 1), "nothing of the new object may be seen");

    let source = roots.open("memory:///wal/a", None).await.unwrap();
    store.objects.delete(&Path::parse("wal/a").unwrap()).await.unwrap();
    assert_eq!(contents(&source).await, Err(changed));
}
