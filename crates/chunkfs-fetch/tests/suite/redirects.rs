use chunkfs_fetch::FetchError;
use chunkfs_testkit::{Authorization, Fault, LoggedRequest, RangeServer, Redirect};

use crate::support::{add, ranges, read, source, whole_text};

async fn servers() -> (RangeServer, RangeServer) {
    (RangeServer::start().await, RangeServer::start().await)
}

fn bearer() -> Authorization {
    Authorization::Bearer { expires_in: None, encoded: None, refresh_token: None }
}

fn is_registry_read(request: &&LoggedRequest) -> bool {
    request.path.starts_with("/v2/")
}

fn redirect(change: impl FnOnce(&mut Redirect)) -> Redirect {
    let mut redirect = Redirect::default();
    change(&mut redirect);
    redirect
}

#[tokio::test]
async fn a_redirect_is_resolved_once_for_many_ranges() {
    let (registry, storage) = servers().await;
    let (blob, content) = add(&registry, 1000);
    registry.set_authorization(bearer());
    registry.redirect_blobs_to(&storage, Redirect::default());
    let source = source(&registry);
    for start in 0..50 {
        let bytes = read(&source, &blob, start * 10..start * 10 + 10).await.unwrap();
        assert_eq!(bytes, content.slice(start as usize * 10..start as usize * 10 + 10));
    }
    // One that is refused for the lack of a token, the token, and the one that is redirected.
    assert_eq!(registry.requests().len(), 3);
    assert_eq!(storage.requests().len(), 50);
    assert_eq!(source.counters().redirects, 1);
    assert_eq!(source.counters().token_requests, 1);
    assert!(registry.requests()[2].had_authorization);
    assert!(storage.requests().iter().all(|request| !request.had_authorization));
}

#[tokio::test]
async fn an_expired_signed_url_is_renewed() {
    let (registry, storage) = servers().await;
    let (blob, _) = add(&registry, 1000);
    registry.redirect_blobs_to(&storage, redirect(|redirect| redirect.uses = Some(3)));
    let source = source(&registry);
    for _ in 0..7 {
        read(&source, &blob, 0..10).await.unwrap();
    }
    assert_eq!(registry.requests().len(), 3);
    let statuses: Vec<_> = storage.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [206, 206, 206, 403, 206, 206, 206, 403, 206]);
    assert_eq!(source.counters().retries, 0);
}

#[tokio::test]
async fn a_signed_url_that_never_works_is_renewed_a_few_times() {
    let (registry, storage) = servers().await;
    let (blob, _) = add(&registry, 1000);
    registry.redirect_blobs_to(&storage, redirect(|redirect| redirect.uses = Some(1)));
    let source = source(&registry);
    read(&source, &blob, 0..10).await.unwrap();
    registry.redirect_blobs_to(&storage, redirect(|redirect| redirect.uses = Some(0)));
    let error = read(&source, &blob, 0..10).await.unwrap_err();
    assert!(matches!(error, FetchError::Forbidden { .. }), "{error}");
    // One that worked, then the old URL and seven new ones.
    assert_eq!(registry.requests().len(), 1 + 7);
    assert_eq!(storage.requests().len(), 1 + 1 + 7);
}

#[tokio::test]
async fn a_signed_url_that_says_when_it_expires_is_renewed_before() {
    let (registry, storage) = servers().await;
    let (blob, _) = add(&registry, 1000);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let query_suffix = format!("&Expires={}", now + 2);
    registry.redirect_blobs_to(&storage, redirect(|redirect| redirect.query_suffix = query_suffix));
    let source = source(&registry);
    read(&source, &blob, 0..10).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2000)).await;
    let query_suffix = format!("&Expires={}", now + 1000);
    registry.redirect_blobs_to(&storage, redirect(|redirect| redirect.query_suffix = query_suffix));
    for _ in 0..3 {
        read(&source, &blob, 0..10).await.unwrap();
    }
    assert_eq!(registry.requests().len(), 2);
    assert!(storage.requests().iter().all(|request| request.status == 206));
}

#[tokio::test]
async fn relative_and_nested_redirects_are_followed() {
    let (registry, storage) = servers().await;
    let (blob, content) = add(&registry, 1000);
    registry.redirect_blobs_to(&storage, redirect(|redirect| redirect.hop_count = 3));
    let source_nested = source(&registry);
    assert_eq!(read(&source_nested, &blob, 0..1000).await.unwrap(), content);
    assert_eq!(source_nested.counters().redirects, 4);
    read(&source_nested, &blob, 0..1).await.unwrap();
    assert_eq!(source_nested.counters().redirects, 4);

    registry.redirect_blobs_to(&registry, redirect(|redirect| redirect.is_relative = true));
    registry.clear_requests();
    let source_relative = source(&registry);
    assert_eq!(read(&source_relative, &blob, 0..1000).await.unwrap(), content);
    let paths: Vec<_> = registry.requests().iter().map(|request| request.path.clone()).collect();
    assert_eq!(paths[1], format!("/storage/{}", blob.id));
}

#[tokio::test]
async fn the_number_of_redirects_is_bounded() {
    let (registry, storage) = servers().await;
    let (blob, _) = add(&registry, 1000);
    registry.redirect_blobs_to(&storage, redirect(|redirect| redirect.hop_count = 5));
    let error = read(&source(&registry), &blob, 0..10).await.unwrap_err();
    assert!(matches!(error, FetchError::Redirect { .. }), "{error}");
    assert_eq!(registry.requests().len() + storage.requests().len(), 6);
}

#[tokio::test]
async fn redirects_to_forbidden_places_are_not_followed() {
    let registry = RangeServer::start().await;
    let (blob, _) = add(&registry, 1000);
    for location in [
        Some("http://storage.example/secret?signature=secret"),
        Some("ftp://127.0.0.1/x"),
        Some("https://user:secret@127.0.0.1/x"),
        Some("http://[::x]/"),
        None,
    ] {
        let headers =
            location.map(|location| ("Location".to_owned(), location.to_owned())).into_iter();
        registry.push_fault(Fault::Status { status: 307, headers: headers.collect() });
        let error = read(&source(&registry), &blob, 0..10).await.unwrap_err();
        let is_expected =
            matches!(error, FetchError::Redirect { .. } | FetchError::PlainHttp { .. });
        assert!(is_expected, "{location:?}: {error}");
        assert!(!whole_text(&error).contains("secret"), "{error:?}");
    }
    assert_eq!(registry.requests().len(), 5);
}

#[tokio::test]
async fn errors_of_signed_urls_do_not_show_their_queries() {
    let (registry, storage) = servers().await;
    let (blob, _) = add(&registry, 1000);
    registry.redirect_blobs_to(&storage, Redirect::default());
    for fault in [Fault::status(500), Fault::Close, Fault::StallHead, Fault::status(418)] {
        storage.set_script(move |_| vec![fault.clone()]);
        let source = crate::support::source_with(
            &registry,
            crate::support::options()
                .with_retries_max(0)
                .with_progress_timeout(std::time::Duration::from_millis(50)),
        );
        let error = read(&source, &blob, 0..10).await.unwrap_err();
        let text = whole_text(&error);
        assert!(text.contains(&storage.address().to_string()), "{text}");
        assert!(!text.contains("secret") && !text.contains("X-Signature"), "{text}");
    }
}

#[tokio::test]
async fn cut_bodies_are_resumed_at_the_storage() {
    let (registry, storage) = servers().await;
    let (blob, content) = add(&registry, 1000);
    registry.redirect_blobs_to(&storage, Redirect::default());
    storage.push_fault(Fault::CutBody { after: 100 });
    assert_eq!(read(&source(&registry), &blob, 0..1000).await.unwrap(), content);
    assert_eq!(ranges(&storage), ["bytes=0-999", "bytes=100-999"]);
    assert_eq!(registry.requests().iter().filter(is_registry_read).count(), 1);
}

#[tokio::test]
async fn whole_answers_of_the_storage_are_kept() {
    let (registry, storage) = servers().await;
    let (blob, content) = add(&registry, 1000);
    registry.redirect_blobs_to(&storage, Redirect::default());
    storage.set_script(|_| vec![Fault::IgnoreRange]);
    let source = source(&registry);
    for start in [900, 0, 500] {
        let bytes = read(&source, &blob, start..start + 100).await.unwrap();
        assert_eq!(bytes, content.slice(start as usize..start as usize + 100));
    }
    assert_eq!((registry.requests().len(), storage.requests().len()), (1, 1));
}
