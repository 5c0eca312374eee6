use super::*;

fn parse(url: &str) -> Result<Location, LocationError> {
    Location::parse(&Url::parse(url).unwrap())
}

fn bucket(scheme: Scheme, bucket: &str, prefix: &str) -> Result<Location, LocationError> {
    Ok(Location::Bucket { scheme, bucket: bucket.to_owned(), prefix: Path::parse(prefix).unwrap() })
}

#[test]
fn each_scheme_is_taken_apart_and_its_path_decoded_once() {
    assert_eq!(parse("s3://b"), bucket(Scheme::S3, "b", ""));
    assert_eq!(parse("s3://b/"), bucket(Scheme::S3, "b", ""));
    assert_eq!(parse("s3://b/x/y/"), bucket(Scheme::S3, "b", "x/y"));
    assert_eq!(parse("gs://b/x%20y"), bucket(Scheme::Gcs, "b", "x y"));
    assert_eq!(parse("az://c/100%2525"), bucket(Scheme::Azure, "c", "100%25"));
    assert_eq!(parse("memory:"), Ok(Location::Memory { prefix: Path::default() }));
    assert_eq!(parse("memory:///p"), Ok(Location::Memory { prefix: Path::parse("p").unwrap() }));
    assert_eq!(parse("file:///a%20b/c"), Ok(Location::File(PathBuf::from("/a b/c"))));
    assert_eq!(parse("file://localhost/a"), Ok(Location::File(PathBuf::from("/a"))));
}

#[test]
fn what_is_no_plain_location_is_refused() {
    let scheme = |scheme: &str| Err(LocationError::Scheme { scheme: scheme.to_owned() });
    assert_eq!(parse("http://b/x"), scheme("http"));
    assert_eq!(parse("s3a://b/x"), scheme("s3a"));
    for url in ["s3://user:secret@b/x", "s3://b:9000/x", "s3://b/x?region=y", "az://c/x#y"] {
        assert_eq!(parse(url), Err(LocationError::Extra), "{url}");
    }
    assert_eq!(parse("s3:///x"), Err(LocationError::NoBucket));
    assert_eq!(parse("file://host/x"), Err(LocationError::Host));
    for url in ["s3://b/a//b", "s3://b/a%2Fb", "s3://b/a%2f..%2fb", "s3://b/a%00b", "s3://b/%FF"] {
        assert_eq!(parse(url), Err(LocationError::Path), "{url}");
    }
    for url in ["file:///a%2Fb", "file:///a%00b", "file:///%2e%2e%2fb"] {
        assert_eq!(parse(url), Err(LocationError::Path), "{url}");
    }
    let long = format!("s3://b/{}", "x".repeat(401));
    assert_eq!(parse(&long), Err(LocationError::PrefixTooLong { bytes: 401 }));
}
