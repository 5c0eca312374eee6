//! Makes the clients of S3, GCS and Azure. Credentials, endpoints and regions come from the environment
//! variables of `object_store`'s builders (`AWS_…`, `AZURE_…`, `GOOGLE_…`). The builders read them
//! themselves. This is the one exception to the rule that only the command line reads the environment.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};

use super::url::{ClientError, Scheme, Settings};

/// Makes the client for a bucket or container.
pub(super) fn client(
    scheme: Scheme,
    bucket: &str,
    settings: Settings<'_>,
) -> Result<Arc<dyn ObjectStore>, ClientError> {
    match scheme {
        Scheme::S3 => s3(bucket, settings),
        Scheme::Gcs => gcs(bucket, settings),
        Scheme::Azure => azure(bucket, settings),
    }
}

/// The time limit of the client for a whole request, with its body. The default of 30 s is too short for a
/// large object on a slow connection. This program's own limits grow with the size and limit each attempt
/// from outside. The limit is set as a configuration key, because `with_client_options` would drop the
/// client's settings from the environment (`AWS_ALLOW_HTTP`).
const REQUEST_LIMIT: &str = "7 days";

fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// S3 verifies the body twice. The signature covers its SHA-256; unsigned payloads are switched off here,
/// even if the environment asks for them. And `x-amz-checksum-sha256` is stored with the object.
fn s3(bucket: &str, settings: Settings<'_>) -> Result<Arc<dyn ObjectStore>, ClientError> {
    let mut builder = AmazonS3Builder::from_env();
    for (name, value) in settings {
        builder = builder.with_config(name.to_ascii_lowercase().parse()?, *value);
    }
    let store = builder
        .with_bucket_name(bucket)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST_LIMIT)
        .with_retry(no_retries())
        .with_unsigned_payload(false)
        .with_checksum_algorithm(Checksum::SHA256)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // Deletes one object per request: the response is for that object, and every server supports it.
        .with_disable_bulk_delete(true)
        .build()?;
    Ok(Arc::new(store))
}

fn gcs(bucket: &str, settings: Settings<'_>) -> Result<Arc<dyn ObjectStore>, ClientError> {
    let mut builder = GoogleCloudStorageBuilder::from_env();
    for (name, value) in settings {
        builder = builder.with_config(name.to_ascii_lowercase().parse()?, *value);
    }
    let store = builder
        .with_bucket_name(bucket)
        .with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), REQUEST_LIMIT)
        .with_retry(no_retries())
        .build()?;
    Ok(Arc::new(store))
}

fn azure(container: &str, settings: Settings<'_>) -> Result<Arc<dyn ObjectStore>, ClientError> {
    let mut builder = MicrosoftAzureBuilder::from_env();
    for (name, value) in settings {
        builder = builder.with_config(name.to_ascii_lowercase().parse()?, *value);
    }
    let store = builder
        .with_container_name(container)
        .with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), REQUEST_LIMIT)
        .with_retry(no_retries())
        .build()?;
    Ok(Arc::new(store))
}
