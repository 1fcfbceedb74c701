use std::time::{Duration, Instant};

use chunkfs_fetch::{BlobSource as _, FetchError, ImageSource as _, ManifestSelector, Priority};
use chunkfs_testkit::{Fault, RangeServer};
use futures::StreamExt as _;
use futures::future::join_all;

use crate::support::{REPOSITORY, add, options, ranges, read, source, source_with};

#[tokio::test]
async fn passing_failures_are_retried() {
    for fault in [500, 502, 503, 504, 429, 408].map(Fault::status).into_iter().chain([Fault::Close])
    {
        let server = RangeServer::start().await;
        let (blob, content) = add(&server, 100);
        server.push_fault(fault.clone());
        server.push_fault(fault);
        let source = source(&server);
        assert_eq!(read(&source, &blob, 0..100).await.unwrap(), content);
        assert_eq!(server.requests().len(), 3);
        assert_eq!(source.counters().retries, 2);
    }
}

#[tokio::test]
async fn refusals_at_the_first_contact_are_asked_again_twice() {
    for (status, is_not_found) in [(404, true), (400, false), (405, false), (501, false)] {
        let server = RangeServer::start().await;
        let (blob, _) = add(&server, 100);
        server.set_script(move |_| vec![Fault::status(status)]);
        let error = read(&source(&server), &blob, 0..100).await.unwrap_err();
        assert_eq!(error.is_not_found(), is_not_found, "{error}");
        assert!(!error.is_retryable(), "{error}");
        assert_eq!(server.requests().len(), 3);
    }
}

#[tokio::test]
async fn a_refusal_of_what_worked_before_is_doubted() {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let lying = vec![header("Content-Length", "1000")];
    for fault in [
        Fault::status(400),
        Fault::status(403),
        Fault::status(404),
        Fault::Status { status: 416, headers: lying },
        Fault::status(501),
        Fault::ContentEncoding("gzip".to_owned()),
        Fault::ShiftedRange { by: 1 },
    ] {
        let server = RangeServer::start().await;
        let (blob, content) = add(&server, 100);
        let source = source(&server);
        read(&source, &blob, 0..1).await.unwrap();
        for _ in 0..3 {
            server.push_fault(fault.clone());
        }
        assert_eq!(read(&source, &blob, 5..50).await.unwrap(), content.slice(5..50), "{fault:?}");
        let asked: Vec<_> = server.requests().into_iter().map(|read| read.cache_control).collect();
        let around = Some("no-cache".to_owned());
        assert_eq!(asked, [None, None, around.clone(), around.clone(), around], "{fault:?}");
        server.set_script(move |_| vec![fault.clone()]);
        read(&source, &blob, 0..1).await.unwrap_err();
        assert_eq!(server.requests().len(), 5 + 7);
    }
}

#[tokio::test]
async fn credentials_that_worked_are_tried_until_the_deadline_and_others_once() {
    let challenge = ("WWW-Authenticate".to_owned(), "Basic realm=\"x\"".to_owned());
    for headers in [Vec::new(), vec![challenge]] {
        let server = RangeServer::start().await;
        let (blob, content) = add(&server, 100);
        let source = source(&server);
        let fault = Fault::Status { status: 401, headers };
        server.push_fault(fault.clone());
        let error = read(&source, &blob, 0..1).await.unwrap_err();
        assert!(matches!(error, FetchError::Unauthorized { .. }), "{error}");
        assert_eq!(server.requests().len(), 1);
        // For a moment the same error is all that there is.
        while read(&source, &blob, 0..1).await.is_err() {}
        server.clear_requests();
        for _ in 0..8 {
            server.push_fault(fault.clone());
        }
        assert_eq!(read(&source, &blob, 5..50).await.unwrap(), content.slice(5..50));
        assert_eq!(server.requests().len(), 9);
    }
}

#[tokio::test]
async fn a_host_without_an_address_is_an_error_soon() {
    let reference = "docker://no-such-registry.invalid/library/test:v1".parse().unwrap();
    let source = chunkfs_fetch::RegistrySource::new(reference, options()).unwrap();
    let tag = ManifestSelector::Tag("v1".to_owned());
    let error = source.fetch_manifest(&tag).await.unwrap_err();
    let FetchError::Transport { url, .. } = &error else { panic!("{error}") };
    assert_eq!(url, "https://no-such-registry.invalid/v2/library/test/manifests/v1");
    assert_eq!(source.counters().retries, 4);
}

#[tokio::test]
async fn retries_are_bounded() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    server.set_script(|_| vec![Fault::status(500)]);
    let source = source_with(&server, options().with_retries_max(3));
    let error = read(&source, &blob, 0..100).await.unwrap_err();
    assert!(matches!(error, FetchError::Status { status: 500, .. }), "{error}");
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn a_demand_read_outlasts_an_outage_that_is_shorter_than_its_deadline() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 100);
    for _ in 0..12 {
        server.push_fault(Fault::Close);
    }
    let source = source(&server);
    let prefetched = source.read_range(&blob, 0..100, Priority::Prefetch).await;
    assert!(prefetched.unwrap_err().is_retryable());
    assert_eq!(server.requests().len(), 5);
    assert_eq!(read(&source, &blob, 0..100).await.unwrap(), content);
    assert_eq!(server.requests().len(), 13);
}

#[tokio::test]
async fn a_cut_body_is_resumed_at_the_byte_reached() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000);
    server.push_fault(Fault::CutBody { after: 7 });
    server.push_fault(Fault::CutBody { after: 100 });
    let bytes = read(&source(&server), &blob, 200..500).await.unwrap();
    assert_eq!(bytes, content.slice(200..500));
    assert_eq!(ranges(&server), ["bytes=200-499", "bytes=207-499", "bytes=307-499"]);
    assert_eq!(server.bytes_sent(), 300);
}

#[tokio::test]
async fn stalls_are_retried() {
    for (fault, resumed) in
        [(Fault::Stall { after: 10 }, "bytes=10-99"), (Fault::StallHead, "bytes=0-99")]
    {
        let server = RangeServer::start().await;
        let (blob, content) = add(&server, 100);
        server.push_fault(fault);
        let source =
            source_with(&server, options().with_progress_timeout(Duration::from_millis(250)));
        assert_eq!(read(&source, &blob, 0..100).await.unwrap(), content);
        assert_eq!(ranges(&server), ["bytes=0-99", resumed]);
    }
}

#[tokio::test]
async fn retry_after_holds_back_all_requests_to_the_host() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    let source = source(&server);
    server.push_fault(Fault::retry_after(429, "1"));
    let started = Instant::now();
    let reads = (0..3).map(|_| read(&source, &blob, 0..100));
    assert!(join_all(reads).await.iter().all(Result::is_ok));
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(950), "{waited:?}");
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn a_pause_beyond_the_deadline_is_an_error_at_once() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    server.push_fault(Fault::retry_after(503, "3600"));
    let started = Instant::now();
    let source = source_with(&server, options().with_deadline(Duration::from_secs(10)));
    let error = read(&source, &blob, 0..100).await.unwrap_err();
    let FetchError::Throttled { retry_after, .. } = error else { panic!("{error}") };
    // A pause of an hour is cut.
    assert!(retry_after > Duration::from_secs(20) && retry_after <= Duration::from_secs(30));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn the_deadline_ends_in_an_error_and_the_next_read_works() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 100);
    server.push_fault(Fault::StallHead);
    let source = source_with(
        &server,
        options()
            .with_deadline(Duration::from_millis(400))
            .with_progress_timeout(Duration::from_secs(9)),
    );
    let error = read(&source, &blob, 0..100).await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout { .. }), "{error}");
    assert!(error.is_retryable());
    assert_eq!(read(&source, &blob, 0..100).await.unwrap(), content);
}

#[tokio::test]
async fn an_unreachable_host_is_a_transport_error() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    let source = source_with(&server, options().with_retries_max(1));
    drop(server);
    let error = read(&source, &blob, 0..100).await.unwrap_err();
    assert!(matches!(error, FetchError::Transport { .. }), "{error}");
}

#[tokio::test]
async fn a_plain_server_where_tls_is_expected_gets_the_right_remedy() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    let source = source_with(&server, options().with_loopback_https(true).with_retries_max(0));
    let error = read(&source, &blob, 0..100).await.unwrap_err();
    assert!(error.to_string().contains("--plain-http"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefetch_leaves_room_for_demand() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 1000);
    let source = source_with(
        &server,
        options()
            .with_connections_max(3)
            .with_prefetch_connections_max(9)
            .with_progress_timeout(Duration::from_secs(9)),
    );
    read(&source, &blob, 0..1).await.unwrap();
    server.set_script(|request| match request.range.as_deref() {
        Some("bytes=0-9") => vec![Fault::StallHead],
        _ => Vec::new(),
    });
    let prefetches: Vec<_> = (0..10)
        .map(|_| {
            let source = source.clone();
            tokio::spawn(async move { source.read_range(&blob, 0..10, Priority::Prefetch).await })
        })
        .collect();
    while server.requests().len() < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..5 {
        read(&source, &blob, 20..30).await.unwrap();
    }
    assert_eq!(server.requests().len(), 3 + 5, "two prefetch reads at once");
    for prefetch in prefetches {
        prefetch.abort();
    }
}

#[tokio::test]
async fn a_dropped_read_frees_its_connection() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    server.push_fault(Fault::StallHead);
    let source = source_with(&server, options().with_connections_max(1));
    let read_dropped =
        tokio::time::timeout(Duration::from_millis(50), read(&source, &blob, 0..100)).await;
    assert!(read_dropped.is_err());
    read(&source, &blob, 0..100).await.unwrap();
}

#[tokio::test]
async fn a_stream_is_one_request_and_resumes_after_a_cut() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 300_000);
    let collect = |source: chunkfs_fetch::RegistrySource| async move {
        let pieces: Vec<_> = source.stream_blob(&blob).collect().await;
        let pieces: Result<Vec<_>, _> = pieces.into_iter().collect();
        pieces.map(|pieces| pieces.concat())
    };
    assert_eq!(collect(source(&server)).await.unwrap(), content);
    assert_eq!(ranges(&server), [""]);
    server.clear_requests();
    server.push_fault(Fault::CutBody { after: 100_000 });
    server.push_faults(vec![Fault::IgnoreRange, Fault::CutBody { after: 200_000 }]);
    assert_eq!(collect(source(&server)).await.unwrap(), content);
    assert_eq!(ranges(&server), ["", "bytes=100000-299999", "bytes=200000-299999"]);
}

#[tokio::test]
async fn a_failed_stream_ends_after_its_error() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 1000);
    server.set_script(|_| vec![Fault::status(404)]);
    let pieces: Vec<_> = source(&server).stream_blob(&blob).collect().await;
    assert_eq!(pieces.len(), 1);
    assert!(pieces[0].as_ref().unwrap_err().is_not_found());
}

#[tokio::test]
async fn manifests_are_limited_and_verified() {
    let server = RangeServer::start().await;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let source = source(&server);
    let tag = |tag: &str| ManifestSelector::Tag(tag.to_owned());
    let id = server.add_manifest(REPOSITORY, "right", media_type, "{}".into());
    let manifest = source.fetch_manifest(&tag("right")).await.unwrap();
    assert_eq!((manifest.id, manifest.media_type.as_deref()), (id, Some(media_type)));
    assert_eq!(manifest, source.fetch_manifest(&ManifestSelector::Digest(id)).await.unwrap());

    server.add_manifest(REPOSITORY, &id.to_string(), media_type, "{ }".into());
    let error = source.fetch_manifest(&ManifestSelector::Digest(id)).await.unwrap_err();
    assert!(matches!(error, FetchError::DigestMismatch { .. }), "{error}");

    let large = vec![b' '; (4 << 20) + 1];
    server.add_manifest(REPOSITORY, "large", media_type, large.clone().into());
    let error = source.fetch_manifest(&tag("large")).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
    server.add_manifest(REPOSITORY, "limit", media_type, large[1..].to_vec().into());
    assert_eq!(source.fetch_manifest(&tag("limit")).await.unwrap().bytes.len(), 4 << 20);

    assert!(source.fetch_manifest(&tag("missing")).await.unwrap_err().is_not_found());
    let error = source.fetch_manifest(&tag("../x")).await.unwrap_err();
    assert!(matches!(error, FetchError::InvalidReference { .. }), "{error}");
}
