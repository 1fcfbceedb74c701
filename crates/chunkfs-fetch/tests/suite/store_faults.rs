//! What goes wrong between an object store and its readers, and how reads survive it.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chunkfs_fetch::{
    BlobContent, BlobDescriptor, BlobSource as _, FetchError, HttpLayout, ImageSink as _,
    ImageSource as _, ObjectLayout, Priority, StoreOptions, fetch_verified,
};
use chunkfs_testkit::{Fault, RangeServer};
use tokio::runtime::Handle;

use crate::stores::tag;
use crate::support::{
    check_drip, check_shared_pause, content, descriptor, ranges, read, whole_text,
};

/// Options with short pauses, and timeouts that even a busy machine does not reach by accident.
fn options() -> StoreOptions {
    StoreOptions::new(Handle::current())
        .with_backoff(Duration::from_millis(2))
        .with_hedge_after(None)
        .with_progress_timeout(Duration::from_secs(5))
        .with_deadline(Duration::from_secs(30))
}

fn store_with(server: &RangeServer, options: StoreOptions) -> ObjectLayout {
    let settings = [
        ("AWS_ENDPOINT", server.url()),
        ("AWS_SKIP_SIGNATURE", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
    ];
    let reference = "s3://files/images/x".parse().unwrap();
    ObjectLayout::connect(&reference, options.with_settings(settings)).unwrap()
}

/// Adds a layout with one tag and one blob of `len` bytes to a server; forgets the requests.
pub(crate) async fn add(server: &RangeServer, len: usize) -> (BlobDescriptor, Bytes) {
    let reference = format!("{}/files/images/x", server.url()).parse().unwrap();
    let layout = HttpLayout::new(&reference, crate::support::options()).unwrap();
    let content = content(len);
    let blob = descriptor(&content);
    layout.put_blob(&blob, BlobContent::Bytes(content.clone())).await.unwrap();
    layout.put_manifest(&tag("v1"), "application/x", "{}".into()).await.unwrap();
    server.clear_requests();
    (blob, content)
}

/// A layout that has served a read already, so that it is known to work.
async fn served(server: &RangeServer, blob: &BlobDescriptor) -> ObjectLayout {
    let layout = store_with(server, options());
    read(&layout, blob, 0..1).await.unwrap();
    server.clear_requests();
    layout
}

#[tokio::test]
async fn passing_failures_are_retried() {
    for fault in [500, 502, 503, 504, 429, 408].map(Fault::status).into_iter().chain([Fault::Close])
    {
        let server = RangeServer::start().await;
        let (blob, content) = add(&server, 100).await;
        server.push_fault(fault.clone());
        server.push_fault(fault);
        let layout = store_with(&server, options());
        assert_eq!(read(&layout, &blob, 0..100).await.unwrap(), content);
        assert_eq!(server.requests().len(), 3);
    }
}

#[tokio::test]
async fn final_failures_are_not_retried() {
    for status in [400, 405, 501] {
        let server = RangeServer::start().await;
        let (blob, _) = add(&server, 100).await;
        let layout = served(&server, &blob).await;
        server.push_fault(Fault::status(status));
        let error = read(&layout, &blob, 0..100).await.unwrap_err();
        assert!(matches!(error, FetchError::Status { status: s, .. } if s == status), "{error}");
        assert!(!error.is_retryable(), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_redirect_names_the_setting_that_is_wrong() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100).await;
    server.push_fault(Fault::status(301));
    let error = read(&store_with(&server, options()), &blob, 0..100).await.unwrap_err();
    assert!(matches!(error, FetchError::Redirect { .. }), "{error}");
    assert!(error.to_string().contains("region"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_cut_body_is_resumed_at_the_byte_reached() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000).await;
    server.push_fault(Fault::CutBody { after: 7 });
    server.push_fault(Fault::CutBody { after: 100 });
    let bytes = read(&store_with(&server, options()), &blob, 200..500).await.unwrap();
    assert_eq!(bytes, content.slice(200..500));
    assert_eq!(ranges(&server), ["bytes=200-499", "bytes=207-499", "bytes=307-499"]);
    assert_eq!(server.bytes_sent(), 300);
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_a_read_is_asked_about_at_the_byte_reached() {
    for status in [403, 404] {
        let server = RangeServer::start().await;
        let (blob, content) = add(&server, 1000).await;
        let layout = served(&server, &blob).await;
        server.push_fault(Fault::CutBody { after: 7 });
        server.push_fault(Fault::status(status));
        assert_eq!(read(&layout, &blob, 200..500).await.unwrap(), content.slice(200..500));
        assert_eq!(ranges(&server), ["bytes=200-499", "bytes=207-499", "bytes=207-499"]);
    }
}

#[tokio::test]
async fn a_drip_counts_as_a_stall_and_is_resumed() {
    let server = RangeServer::start().await;
    let blob = add(&server, 2000).await;
    let layout = store_with(&server, options().with_progress_timeout(Duration::from_millis(300)));
    check_drip(&server, &layout, blob).await;
}

#[tokio::test]
async fn a_demand_read_that_stands_still_gets_a_second_request() {
    for fault in [Fault::StallHead, Fault::Stall { after: 50 }] {
        let server = RangeServer::start().await;
        let (blob, content) = add(&server, 1000).await;
        let options = options().with_hedge_after(Some(Duration::from_millis(100)));
        let layout = store_with(&server, options);
        server.push_fault(fault.clone());
        assert_eq!(read(&layout, &blob, 0..100).await.unwrap(), content.slice(0..100));
        assert_eq!(ranges(&server), ["bytes=0-99", "bytes=0-99"], "{fault:?}");
    }
}

#[tokio::test]
async fn prefetch_gets_no_second_request() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000).await;
    let layout = store_with(&server, options().with_hedge_after(Some(Duration::from_millis(20))));
    server.set_delay(Duration::from_millis(200));
    let bytes = layout.read_range(&blob, 0..10, Priority::Prefetch).await.unwrap();
    assert_eq!(bytes, content.slice(0..10));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_timeout_tells_what_went_wrong_last() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100).await;
    server.set_script(|_| vec![Fault::status(502)]);
    let layout = store_with(&server, options().with_deadline(Duration::from_millis(1500)));
    let error = read(&layout, &blob, 0..100).await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout { last: Some(_), .. }), "{error:?}");
    assert!(whole_text(&error).contains("answered with status 502"), "{}", whole_text(&error));
}

#[tokio::test]
async fn answers_with_another_range_are_asked_for_again_six_times() {
    for fault in [
        Fault::IgnoreRange,
        Fault::ShiftedRange { by: 10 },
        Fault::ShortRange { len: 10 },
        Fault::status(206),
    ] {
        let server = RangeServer::start().await;
        let (blob, content) = add(&server, 1000).await;
        let layout = store_with(&server, options());
        for _ in 0..4 {
            server.push_fault(fault.clone());
        }
        assert_eq!(read(&layout, &blob, 100..200).await.unwrap(), content.slice(100..200));
        assert_eq!(ranges(&server), ["bytes=100-199"; 5], "{fault:?}");
        server.clear_requests();
        server.set_script(move |_| vec![fault.clone()]);
        let error = read(&layout, &blob, 100..200).await.unwrap_err();
        assert!(matches!(error, FetchError::RangeMismatch { .. }), "{error}");
        assert_eq!(server.requests().len(), 7);
    }
}

#[tokio::test]
async fn an_object_of_another_length_is_asked_for_again_six_times() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 1000).await;
    let longer = BlobDescriptor { len: 1001, ..blob };
    let error = read(&store_with(&server, options()), &longer, 0..10).await.unwrap_err();
    let is_right = matches!(error, FetchError::LenMismatch { expected: 1001, actual: 1000, .. });
    assert!(is_right, "{error}");
    assert_eq!(server.requests().len(), 7);
}

#[tokio::test]
async fn refusals_of_a_store_that_has_served_before_are_asked_about_again() {
    for status in [401, 403, 404, 416] {
        let server = RangeServer::start().await;
        let (blob, content) = add(&server, 100).await;
        let layout = served(&server, &blob).await;
        // Keys may be replaced late; what is gone is gone.
        let fault_count = if status == 401 { 8 } else { 4 };
        for _ in 0..fault_count {
            server.push_fault(Fault::status(status));
        }
        assert_eq!(read(&layout, &blob, 0..100).await.unwrap(), content);
        assert_eq!(server.requests().len(), fault_count + 1);
        let layout = store_with(&server, options().with_retries_max(4));
        read(&layout, &blob, 0..1).await.unwrap();
        server.clear_requests();
        server.set_script(move |_| vec![Fault::status(status)]);
        let error = read(&layout, &blob, 0..100).await.unwrap_err();
        assert_eq!(error.is_not_found(), status == 404, "{error}");
        assert!(!error.is_retryable(), "{error}");
        assert_eq!(server.requests().len(), 5);
        // The caller's bound holds here, too.
        server.clear_requests();
        let layout = store_with(&server, options().with_retries_max(1));
        server.push_faults(Vec::new());
        read(&layout, &blob, 0..1).await.unwrap();
        read(&layout, &blob, 0..100).await.unwrap_err();
        assert_eq!(server.requests().len(), 1 + 2);
    }
}

#[tokio::test]
async fn refusals_at_first_contact_are_errors_at_once() {
    for status in [401, 403, 404, 416] {
        let server = RangeServer::start().await;
        let (blob, _) = add(&server, 100).await;
        server.push_fault(Fault::status(status));
        let error = read(&store_with(&server, options()), &blob, 0..100).await.unwrap_err();
        assert_eq!(error.is_not_found(), status == 404, "{error}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn expired_keys_are_told_by_their_code_alone() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 100).await;
    let fault = || {
        let header = ("x-ms-error-code".to_owned(), "ExpiredToken".to_owned());
        Fault::Status { status: 400, headers: vec![header] }
    };
    server.push_fault(fault());
    let error = read(&store_with(&server, options()), &blob, 0..100).await.unwrap_err();
    let FetchError::Unauthorized { detail, .. } = &error else { panic!("{error}") };
    assert_eq!(detail, "ExpiredToken");
    let layout = served(&server, &blob).await;
    server.push_fault(fault());
    assert_eq!(read(&layout, &blob, 0..100).await.unwrap(), content);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn damaged_bytes_are_read_three_times_more() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000).await;
    let layout = store_with(&server, options());
    for _ in 0..3 {
        server.push_fault(Fault::FlipBit { bit: 4000 });
    }
    assert_eq!(fetch_verified(&layout, &blob, 1000).await.unwrap(), content);
    assert_eq!(server.requests().len(), 4);
    server.clear_requests();
    server.set_script(|_| vec![Fault::FlipBit { bit: 4000 }]);
    let error = fetch_verified(&layout, &blob, 1000).await.unwrap_err();
    assert!(matches!(error, FetchError::DigestMismatch { .. }), "{error}");
    assert_eq!(server.requests().len(), 4);
    let fourth = NonZeroU32::new(4).unwrap();
    let again = layout.reread_range(&blob, 0..10, Priority::Demand, fourth).await;
    assert_eq!(again.unwrap(), None);
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn a_damaged_manifest_is_read_three_times_more() {
    let server = RangeServer::start().await;
    add(&server, 100).await;
    let layout = store_with(&server, options());
    for _ in 0..3 {
        server.push_fault(Fault::FlipBit { bit: 1 });
    }
    assert_eq!(layout.fetch_manifest(&tag("v1")).await.unwrap().bytes, "{}");
    assert_eq!(server.requests().len(), 1 + 4);
    server.clear_requests();
    // The index is not verified by a digest; only the manifest is damaged.
    server.set_script(|request| match request.is_blob_read() {
        true => vec![Fault::FlipBit { bit: 1 }],
        false => Vec::new(),
    });
    let error = layout.fetch_manifest(&tag("v1")).await.unwrap_err();
    assert!(matches!(error, FetchError::DigestMismatch { .. }), "{error}");
    assert_eq!(server.requests().len(), 1 + 4);
}

#[tokio::test]
async fn a_store_that_never_answers_is_given_up_long_before_the_deadline() {
    let server = RangeServer::start().await;
    server.set_script(|_| vec![Fault::StallHead]);
    let options = options()
        .with_progress_timeout(Duration::from_millis(400))
        .with_deadline(Duration::from_secs(6));
    let error = store_with(&server, options).resolve(None).await.unwrap_err();
    assert!(matches!(error, FetchError::Transport { .. }), "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn small_files_are_read_again_too() {
    let server = RangeServer::start().await;
    add(&server, 100).await;
    let layout = store_with(&server, options());
    server.push_fault(Fault::Close);
    server.push_fault(Fault::status(503));
    assert_eq!(layout.fetch_manifest(&tag("v1")).await.unwrap().bytes, "{}");
    let requests = server.requests();
    let paths: Vec<_> = requests.iter().map(|request| &request.path[..21]).collect();
    let manifest = "/files/images/x/blobs";
    assert_eq!(paths, ["/files/images/x/index", manifest, manifest, manifest]);
    assert!(layout.fetch_manifest(&tag("v2")).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_pause_is_shared_by_the_layouts_of_all_images() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100).await;
    let options = options();
    let (first, second) = (store_with(&server, options.clone()), store_with(&server, options));
    check_shared_pause(&server, &blob, (&first, &second)).await;
}

#[tokio::test]
async fn a_pause_beyond_the_deadline_is_an_error_at_once() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100).await;
    server.push_fault(Fault::retry_after(503, "3600"));
    let started = Instant::now();
    let layout = store_with(&server, options().with_deadline(Duration::from_secs(10)));
    let error = read(&layout, &blob, 0..100).await.unwrap_err();
    assert!(matches!(error, FetchError::Throttled { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(server.requests().len(), 1);
}
