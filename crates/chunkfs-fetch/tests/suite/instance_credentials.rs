//! Credentials that an instance or a container gets, and gets anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_fetch::{
    BlobContent, BlobDescriptor, BlobSource as _, FetchError, ImageSink as _, ObjectLayout,
    Priority, StoreOptions,
};
use s3s::auth::{S3Auth, SecretKey};
use tokio::runtime::Handle;

use crate::metadata::Metadata;
use crate::s3::start;
use crate::support::{content, descriptor, whole_text};

const FAR: &str = "2099-01-01T00:00:00Z";
const PAST: &str = "2001-01-01T00:00:00Z";
const KEYS_PATH: &str = "GET /latest/meta-data/iam/security-credentials/role";
/// What is asked for to get keys from an instance's metadata.
const KEYS_REQUESTS: [&str; 3] = [
    "PUT /latest/api/token",
    "GET /latest/meta-data/iam/security-credentials/ metadata-token",
    "GET /latest/meta-data/iam/security-credentials/role metadata-token",
];

/// The keys that the store accepts at present.
#[derive(Clone, Default)]
struct Keys(Arc<Mutex<HashMap<String, String>>>);

impl Keys {
    /// Accepts only this key from now on, and returns it as metadata services do.
    fn rotate(&self, key: &str, expiration: &str) -> String {
        let secret = format!("secret-{key}");
        *self.0.lock().unwrap() = HashMap::from([(key.to_owned(), secret.clone())]);
        serde_json::json!({
            "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": key, "SecretAccessKey": secret,
            "Token": format!("session-{key}"), "Expiration": expiration,
        })
        .to_string()
    }
}

#[async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, key: &str) -> s3s::S3Result<SecretKey> {
        let secret = self.0.lock().unwrap().get(key).cloned();
        secret.map(SecretKey::from).ok_or_else(|| s3s::s3_error!(InvalidAccessKeyId))
    }
}

/// A store whose keys come from a metadata service, and a blob in it.
struct Rig {
    _folder: tempfile::TempDir,
    keys: Keys,
    metadata: Metadata,
    layout: ObjectLayout,
    blob: BlobDescriptor,
    content: Bytes,
}

impl Rig {
    /// `settings` say where the metadata is; its texts are set here for all kinds of it.
    async fn new(expiration: &str, settings: impl Fn(&Metadata) -> Vec<(String, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (keys, metadata) = (Keys::default(), Metadata::start().await);
        let address = start(folder.path(), keys.clone()).await;
        let mut settings = settings(&metadata);
        settings.push(("AWS_ENDPOINT".to_owned(), format!("http://{address}")));
        settings.push(("AWS_REGION".to_owned(), "us-east-1".to_owned()));
        metadata.set("PUT /latest/api/token", "metadata-token");
        metadata.set("GET /latest/meta-data/iam/security-credentials/", "role");
        metadata.set(KEYS_PATH, keys.rotate("key-1", expiration));
        metadata.set("GET /container", keys.rotate("key-1", expiration));
        let options = StoreOptions::new(Handle::current())
            .with_backoff(Duration::from_millis(2))
            .with_retries_max(4)
            .with_settings(settings);
        let reference = "s3://bucket/images/x".parse().unwrap();
        let layout = ObjectLayout::connect(&reference, options).unwrap();
        assert_eq!(metadata.take_requests(), [""; 0], "connecting sends nothing");
        let content = content(1000);
        let blob = descriptor(&content);
        layout.put_blob(&blob, BlobContent::Bytes(content.clone())).await.unwrap();
        Self { _folder: folder, keys, metadata, layout, blob, content }
    }

    async fn read(&self) -> Result<(), FetchError> {
        let bytes = self.layout.read_range(&self.blob, 10..20, Priority::Demand).await?;
        assert_eq!(bytes, self.content.slice(10..20));
        Ok(())
    }
}

fn instance(metadata: &Metadata) -> Vec<(String, String)> {
    vec![("AWS_METADATA_ENDPOINT".to_owned(), metadata.url(""))]
}

#[tokio::test]
async fn keys_of_an_instance_are_asked_for_once_while_they_are_good() {
    let rig = Rig::new(FAR, instance).await;
    rig.read().await.unwrap();
    rig.read().await.unwrap();
    assert_eq!(rig.metadata.take_requests(), KEYS_REQUESTS);
}

/// Replaces the keys of an instance and reads twice.
async fn new_keys_are_asked_for_once(rig: &Rig) {
    rig.metadata.take_requests();
    rig.metadata.set(KEYS_PATH, rig.keys.rotate("key-2", FAR));
    rig.read().await.unwrap();
    rig.read().await.unwrap();
    assert_eq!(rig.metadata.take_requests(), KEYS_REQUESTS);
}

#[tokio::test]
async fn keys_that_have_expired_are_asked_for_again_before_the_store_sees_them() {
    let rig = Rig::new(PAST, instance).await;
    new_keys_are_asked_for_once(&rig).await;
}

#[tokio::test]
async fn keys_that_are_refused_before_their_end_are_asked_for_again() {
    let rig = Rig::new(FAR, instance).await;
    rig.read().await.unwrap();
    new_keys_are_asked_for_once(&rig).await;
}

#[tokio::test]
async fn keys_that_stay_refused_are_asked_for_once_more_only() {
    let rig = Rig::new(FAR, instance).await;
    rig.read().await.unwrap();
    rig.metadata.take_requests();
    rig.keys.rotate("key-2", FAR);
    for _ in 0..2 {
        let error = rig.read().await.unwrap_err();
        assert!(matches!(error, FetchError::Forbidden { .. }), "{error}");
        let text = whole_text(&error);
        assert!(!text.contains("secret") && !text.contains("session"), "{text}");
    }
    assert_eq!(rig.metadata.take_requests(), KEYS_REQUESTS);
}

#[tokio::test]
async fn keys_of_a_container_come_with_the_token_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let token_path = folder.path().join("token");
    std::fs::write(&token_path, "container-token").unwrap();
    let container = |metadata: &Metadata| {
        let full_uri = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", metadata.url("/container"));
        let token_file = token_path.to_str().unwrap().to_owned();
        let token_file = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token_file);
        [full_uri, token_file].map(|(name, value)| (name.to_owned(), value)).to_vec()
    };
    let rig = Rig::new(FAR, container).await;
    rig.read().await.unwrap();
    assert_eq!(rig.metadata.take_requests(), ["GET /container container-token"]);
    std::fs::write(&token_path, "newer-token").unwrap();
    rig.metadata.set("GET /container", rig.keys.rotate("key-2", FAR));
    rig.read().await.unwrap();
    assert_eq!(rig.metadata.take_requests(), ["GET /container newer-token"]);
}

#[tokio::test]
async fn keys_of_a_workload_come_for_the_token_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let token_path = folder.path().join("token");
    std::fs::write(&token_path, "web-token").unwrap();
    let answer = |key: &str| {
        format!(
            "<R><AssumeRoleWithWebIdentityResult><Credentials><SessionToken>s</SessionToken>\
             <AccessKeyId>{key}</AccessKeyId><SecretAccessKey>secret-{key}</SecretAccessKey>\
             <Expiration>{FAR}</Expiration>\
             </Credentials></AssumeRoleWithWebIdentityResult></R>"
        )
    };
    let workload = |metadata: &Metadata| {
        metadata.set("POST /sts", answer("key-1"));
        let settings = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token_path.to_str().unwrap().to_owned()),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r".to_owned()),
            ("AWS_ENDPOINT_URL_STS", metadata.url("/sts")),
        ];
        settings.map(|(name, value)| (name.to_owned(), value)).to_vec()
    };
    let rig = Rig::new(FAR, workload).await;
    rig.read().await.unwrap();
    rig.keys.rotate("key-2", FAR);
    rig.metadata.set("POST /sts", answer("key-2"));
    rig.read().await.unwrap();
    assert_eq!(rig.metadata.take_requests(), ["POST /sts"; 2]);
}

#[tokio::test]
async fn without_metadata_the_error_names_where_it_should_be() {
    let metadata = Metadata::start().await;
    let options = StoreOptions::new(Handle::current()).with_settings(instance(&metadata));
    let layout = ObjectLayout::connect(&"s3://bucket/x".parse().unwrap(), options).unwrap();
    let error = layout.resolve(None).await.unwrap_err();
    assert!(whole_text(&error).contains("/latest/api/token"), "{}", whole_text(&error));
}

#[tokio::test]
async fn errors_tell_the_code_of_an_answer_and_no_more_of_it() {
    let store = Metadata::start().await;
    let settings = [
        ("AWS_ENDPOINT", store.url("")),
        ("AWS_SKIP_SIGNATURE", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
    ];
    let options = StoreOptions::new(Handle::current()).with_settings(settings).with_retries_max(0);
    let layout = ObjectLayout::connect(&"s3://bucket/x".parse().unwrap(), options).unwrap();
    for (status, code) in [
        ("400 Bad Request", "ExpiredToken"),
        ("400 Bad Request", "InvalidArgument"),
        ("403 Forbidden", "AccessDenied"),
        ("401 Unauthorized", "AccessDenied"),
        ("503 Service Unavailable", "SlowDown"),
    ] {
        let body = format!("<Error><Code>{code}</Code><Token-0>secret</Token-0></Error>");
        store.set_with_status("GET /bucket/x/index.json", status, body);
        let text = whole_text(&layout.resolve(None).await.unwrap_err());
        assert!(text.contains(code) && !text.contains("secret"), "{text}");
    }
}
