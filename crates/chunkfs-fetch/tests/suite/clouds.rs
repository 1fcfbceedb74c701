//! What settings do for stores other than S3; a server of plain files stands in for them.

use std::time::Duration;

use chunkfs_fetch::{BlobSource as _, ObjectLayout, Priority, StoreOptions};
use chunkfs_testkit::{Fault, RangeServer};
use tokio::runtime::Handle;

use crate::store_faults::add;

/// Reads from a layout with one blob of 1000 bytes, the first time and after a refusal.
async fn read_twice(reference: &str, server: &RangeServer, settings: &[(&str, String)]) {
    let (blob, content) = add(server, 1000).await;
    let modified = Fault::Header {
        name: "Last-Modified".to_owned(),
        value: "Sun, 06 Nov 1994 08:49:37 GMT".to_owned(),
    };
    server.set_script(move |_| vec![modified.clone()]);
    let options = StoreOptions::new(Handle::current())
        .with_backoff(Duration::from_millis(2))
        .with_settings(settings.iter().map(|(name, value)| (*name, value.as_str())));
    let layout = ObjectLayout::connect(&reference.parse().unwrap(), options).unwrap();
    for expected_count in [1, 3] {
        let bytes = layout.read_range(&blob, 100..200, Priority::Demand).await.unwrap();
        assert_eq!(bytes, content.slice(100..200));
        assert_eq!(server.requests().len(), expected_count);
        server.push_fault(Fault::status(403));
    }
}

#[cfg(feature = "azure")]
#[tokio::test]
async fn azure_reads_with_a_managed_identity_and_asks_for_it_again_after_a_refusal() {
    use crate::metadata::Metadata;
    let (server, metadata) = (RangeServer::start().await, Metadata::start().await);
    let token = serde_json::json!({"access_token": "t", "expires_on": "4070908800"});
    metadata.set("GET /identity", token.to_string());
    let settings = [
        ("AZURE_STORAGE_ACCOUNT_NAME", "account".to_owned()),
        ("AZURE_STORAGE_ENDPOINT", server.url()),
        ("IDENTITY_ENDPOINT", metadata.url("/identity")),
        ("TOKEN", "of something else".to_owned()),
    ];
    read_twice("az://files/images/x", &server, &settings).await;
    assert!(server.requests().iter().all(|request| request.had_authorization));
    assert_eq!(metadata.take_requests(), ["GET /identity true"; 2]);
}

#[cfg(feature = "gcs")]
#[tokio::test]
async fn google_reads_with_a_service_account_in_a_file() {
    let server = RangeServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("account.json");
    let account = serde_json::json!({
        "gcs_base_url": server.url(), "disable_oauth": true,
        "client_email": "", "private_key": "", "private_key_id": "",
    });
    std::fs::write(&path, account.to_string()).unwrap();
    let settings = [("GOOGLE_SERVICE_ACCOUNT", path.to_str().unwrap().to_owned())];
    read_twice("gs://files/images/x", &server, &settings).await;
}
