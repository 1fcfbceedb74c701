//! HTTP proxies between a client and a registry.

use chunkfs_fetch::{FetchError, RegistryReference, RegistrySource};
use chunkfs_testkit::RangeServer;

use crate::support::{REPOSITORY, add, options, read, source_with};

fn remote() -> RegistryReference {
    format!("docker://registry.invalid/{REPOSITORY}:v1").parse().unwrap()
}

#[tokio::test]
async fn a_registry_is_asked_through_the_proxy_for_its_scheme() {
    let proxy = RangeServer::start().await;
    let (blob, content) = add(&proxy, 100);
    for (name, value) in [("http_proxy", proxy.url()), ("ALL_PROXY", proxy.address().to_string())] {
        proxy.clear_requests();
        let options = options().with_plain_http(true).with_proxies([(name, value)]);
        let source = RegistrySource::new(remote(), options).unwrap();
        assert_eq!(read(&source, &blob, 5..50).await.unwrap(), content.slice(5..50));
        let requests = proxy.requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].path, format!("/v2/{REPOSITORY}/blobs/{}", blob.id));
    }
}

#[tokio::test]
async fn hosts_without_proxy_and_this_machine_are_asked_directly() {
    let (proxy, registry) = (RangeServer::start().await, RangeServer::start().await);
    let (blob, content) = add(&registry, 100);
    let proxies = [("http_proxy", proxy.url()), ("NO_PROXY", ".example, invalid".to_owned())];
    let options = options().with_plain_http(true).with_retries_max(0).with_proxies(proxies);
    let source = source_with(&registry, options.clone());
    assert_eq!(read(&source, &blob, 0..100).await.unwrap(), content);
    let error = read(&RegistrySource::new(remote(), options).unwrap(), &blob, 0..1).await;
    assert!(matches!(error, Err(FetchError::Transport { .. })), "{error:?}");
    assert_eq!(proxy.requests(), []);
}

#[tokio::test]
async fn a_proxy_that_is_no_url_is_an_error_without_its_text() {
    let options = options().with_proxies([("HTTPS_PROXY", "http://user:secret@[")]);
    let error = RegistrySource::new(remote(), options.clone()).unwrap_err();
    let text = format!("{error} {error:?} {options:?}");
    assert!(text.contains("HTTPS_PROXY") && !text.contains("secret"), "{text}");
}
