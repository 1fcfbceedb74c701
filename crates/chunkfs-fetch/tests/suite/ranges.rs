use std::time::Duration;

use chunkfs_fetch::{BlobSource as _, FetchError, Priority};
use chunkfs_testkit::{Fault, RangeServer};
use futures::future::join_all;

use crate::support::{add, options, ranges, read, source, source_with};

#[tokio::test]
async fn each_range_is_one_request() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000);
    let source = source(&server);
    for range in [0..1, 10..20, 999..1000, 0..1000] {
        let bytes = read(&source, &blob, range.clone()).await.unwrap();
        assert_eq!(bytes, content.slice(range.start as usize..range.end as usize));
    }
    assert_eq!(ranges(&server), ["bytes=0-0", "bytes=10-19", "bytes=999-999", "bytes=0-999"]);
    assert_eq!(server.requests().len(), 4);
    assert_eq!(server.bytes_sent(), 1 + 10 + 1 + 1000);
    let counters = source.counters();
    assert_eq!(counters.demand.requests, 4);
    assert_eq!(counters.demand.bytes_received, 1012);
    assert_eq!((counters.retries, counters.redirects, counters.token_requests), (0, 0, 0));
}

#[tokio::test]
async fn empty_and_impossible_ranges_send_nothing() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 1000);
    let source = source(&server);
    assert_eq!(read(&source, &blob, 5..5).await.unwrap().len(), 0);
    assert!(matches!(read(&source, &blob, 0..1001).await, Err(FetchError::OutOfRange { .. })));
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn requests_and_bytes_are_counted_by_priority() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 1000);
    let source = source(&server);
    source.read_range(&blob, 0..100, Priority::Prefetch).await.unwrap();
    source.read_range(&blob, 0..10, Priority::Demand).await.unwrap();
    let counters = source.counters();
    assert_eq!((counters.prefetch.requests, counters.prefetch.bytes_received), (1, 100));
    assert_eq!((counters.demand.requests, counters.demand.bytes_received), (1, 10));
}

#[tokio::test]
async fn a_short_answer_is_continued() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000);
    server.push_fault(Fault::ShortRange { len: 30 });
    let bytes = read(&source(&server), &blob, 100..200).await.unwrap();
    assert_eq!(bytes, content.slice(100..200));
    assert_eq!(ranges(&server), ["bytes=100-199", "bytes=130-199"]);
}

#[tokio::test]
async fn endless_short_answers_end() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 1000);
    server.set_script(|_| vec![Fault::ShortRange { len: 1 }]);
    let error = read(&source(&server), &blob, 0..1000).await.unwrap_err();
    assert!(matches!(error, FetchError::Truncated { .. }), "{error}");
    assert_eq!(server.requests().len(), 65);
}

#[tokio::test]
async fn a_shifted_answer_is_an_error() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 1000);
    server.set_script(|_| vec![Fault::ShiftedRange { by: 1 }]);
    let error = read(&source(&server), &blob, 100..200).await.unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    let FetchError::RangeMismatch { expected, actual, .. } = error else { panic!("{error}") };
    assert_eq!((expected, actual.as_str()), (100..200, "bytes 101-200/1000"));
}

#[tokio::test]
async fn a_blob_that_is_shorter_than_its_descriptor_is_out_of_range() {
    let server = RangeServer::start().await;
    let (mut blob, _) = add(&server, 1000);
    blob.len = 2000;
    let source = source(&server);
    let error = read(&source, &blob, 1500..1600).await.unwrap_err();
    assert!(matches!(error, FetchError::OutOfRange { len: 1000, .. }), "{error}");
    let error = read(&source, &blob, 0..10).await.unwrap_err();
    assert!(matches!(error, FetchError::RangeMismatch { .. }), "{error}");
}

#[tokio::test]
async fn a_body_is_not_read_after_416() {
    let server = RangeServer::start().await;
    let (mut blob, _) = add(&server, 1000);
    blob.len = 2000;
    // Like distribution 2.8, which announces the length of the blob and sends 33 bytes.
    let headers = vec![("Content-Length".to_owned(), "1000".to_owned())];
    server.set_script(move |_| vec![Fault::Status { status: 416, headers: headers.clone() }]);
    let source = source_with(&server, options().with_deadline(Duration::from_secs(3)));
    let error = read(&source, &blob, 1500..1600).await.unwrap_err();
    assert!(matches!(error, FetchError::OutOfRange { .. }), "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn an_encoded_answer_is_refused() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 1000);
    for _ in 0..3 {
        server.push_fault(Fault::ContentEncoding("gzip".to_owned()));
    }
    server.push_fault(Fault::ContentEncoding("identity".to_owned()));
    let source = source(&server);
    let error = read(&source, &blob, 0..10).await.unwrap_err();
    assert!(matches!(error, FetchError::ContentEncoding { .. }), "{error}");
    read(&source, &blob, 0..10).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_answer_serves_all_readers_of_the_blob() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 200_000);
    server.set_script(|_| vec![Fault::IgnoreRange]);
    server.set_delay(Duration::from_millis(20));
    let source = source(&server);
    let reads = (0..20_u64).map(|number| {
        let (source, content) = (source.clone(), content.clone());
        async move {
            let range = number * 10_000..number * 10_000 + 5000;
            let bytes = read(&source, &blob, range.clone()).await.unwrap();
            assert_eq!(bytes, content.slice(range.start as usize..range.end as usize));
        }
    });
    join_all(reads).await;
    assert_eq!(server.requests().len(), 1);
    assert_eq!(server.bytes_sent(), 200_000);
    read(&source, &blob, 77..78).await.unwrap();
    assert_eq!(server.requests().len(), 1);
    assert_eq!(source.counters().whole_blob_transfers, 1);
    assert_eq!(source.counters().demand.bytes_received, 200_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_answer_that_cannot_be_kept_is_cut_out_one_at_a_time() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 8 << 20);
    server.set_script(|_| vec![Fault::IgnoreRange]);
    let source = source_with(&server, options().with_whole_blobs_len_max(1 << 20));
    let reads = (0..5_u64).map(|number| {
        let (source, content) = (source.clone(), content.clone());
        async move {
            let range = number * 1000 + 7..number * 1000 + 500;
            let bytes = read(&source, &blob, range.clone()).await.unwrap();
            assert_eq!(bytes, content.slice(range.start as usize..range.end as usize));
        }
    });
    join_all(reads).await;
    assert_eq!(server.requests().len(), 5);
    let received = source.counters().demand.bytes_received;
    assert!(received < 5 << 20, "it stops at the end of the range, but took {received} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_blobs_are_kept_in_a_folder_if_there_is_one() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, (3 << 20) + 17);
    let (second, _) = add(&server, 2 << 20);
    server.set_script(|_| vec![Fault::IgnoreRange]);
    let folder = tempfile::tempdir().unwrap();
    let options =
        options().with_whole_blobs_len_max(1 << 20).with_whole_blobs_folder(folder.path(), 4 << 20);
    let source = source_with(&server, options);
    assert!(!source.holds_whole(blob.id));
    let reads = (0..20_u64).map(|number| {
        let (source, content) = (source.clone(), content.clone());
        async move {
            let range = number * 150_000 + 7..number * 150_000 + 90_000;
            let bytes = read(&source, &blob, range.clone()).await.unwrap();
            assert_eq!(bytes, content.slice(range.start as usize..range.end as usize));
        }
    });
    join_all(reads).await;
    assert_eq!(read(&source, &blob, 0..blob.len).await.unwrap(), content);
    assert!(source.holds_whole(blob.id));
    assert_eq!((server.requests().len(), server.bytes_sent()), (1, blob.len));
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "the file has no name");
    // The folder's limit: the first one has to go.
    read(&source, &second, 0..second.len).await.unwrap();
    assert!(source.holds_whole(second.id) && !source.holds_whole(blob.id));
}

#[tokio::test]
async fn what_arrived_before_a_failure_is_readable_at_once() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 100_000);
    server.push_faults(vec![Fault::IgnoreRange, Fault::CutBody { after: 4000 }]);
    server.set_script(|_| vec![Fault::StallHead]);
    let folder = tempfile::tempdir().unwrap();
    let options = options()
        .with_whole_blobs_folder(folder.path(), 1 << 20)
        .with_deadline(Duration::from_secs(4));
    let source = source_with(&server, options);
    assert_eq!(read(&source, &blob, 100..200).await.unwrap(), content.slice(100..200));
    assert!(read(&source, &blob, 5000..5001).await.is_err());
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_costs_requests_but_no_bytes() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 2 << 20);
    server.set_script(|_| vec![Fault::IgnoreRange]);
    let options = options()
        .with_whole_blobs_len_max(1 << 20)
        .with_whole_blobs_folder("/proc/self/no-such-folder", 1 << 30);
    let source = source_with(&server, options);
    for start in [0, 100, 5000] {
        let bytes = read(&source, &blob, start..start + 10).await.unwrap();
        assert_eq!(bytes, content.slice(start as usize..start as usize + 10));
    }
    assert_eq!(server.requests().len(), 1 + 3);
}

#[tokio::test]
async fn what_a_host_makes_of_ranges_is_remembered() {
    let server = RangeServer::start().await;
    let (first, _) = add(&server, 1000);
    let (second, content) = add(&server, 2000);
    let source = source(&server);
    read(&source, &first, 0..10).await.unwrap();
    // A reader of another blob does not wait for the one that asked first.
    server.push_fault(Fault::StallHead);
    let mut stuck = Box::pin(read(&source, &second, 0..10));
    assert!(futures::poll!(&mut stuck).is_pending());
    while server.requests().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(read(&source, &second, 5..20).await.unwrap(), content.slice(5..20));
    assert_eq!(server.requests().len(), 3);
    // Another source of the same options knows it, too; one that answers otherwise is noticed.
    server.push_fault(Fault::IgnoreRange);
    assert_eq!(read(&source, &second, 1000..2000).await.unwrap(), content.slice(1000..2000));
    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn a_mirror_that_ignores_one_range_is_asked_for_ranges_of_other_blobs() {
    let server = RangeServer::start().await;
    let (cold, _) = add(&server, 1000);
    let (warm, _) = add(&server, 2000);
    let source = source(&server);
    server.push_fault(Fault::IgnoreRange);
    read(&source, &cold, 0..10).await.unwrap();
    read(&source, &warm, 0..10).await.unwrap();
    read(&source, &cold, 500..600).await.unwrap();
    assert_eq!(server.bytes_sent(), 1000 + 10);
}

#[tokio::test]
async fn the_oldest_whole_blob_makes_room() {
    let server = RangeServer::start().await;
    let (first, _) = add(&server, 600);
    let (second, _) = add(&server, 700);
    server.set_script(|_| vec![Fault::IgnoreRange]);
    let source = source_with(&server, options().with_whole_blobs_len_max(1000));
    for (blob, transfers) in [(&first, 1), (&first, 1), (&second, 2), (&second, 2), (&first, 3)] {
        // The end of the blob comes when the transfer is complete.
        read(&source, blob, blob.len - 10..blob.len).await.unwrap();
        assert_eq!(source.counters().whole_blob_transfers, transfers);
    }
}

#[tokio::test]
async fn a_cut_whole_answer_is_continued() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000);
    server.push_faults(vec![Fault::IgnoreRange, Fault::CutBody { after: 400 }]);
    server.push_faults(vec![Fault::IgnoreRange, Fault::CutBody { after: 700 }]);
    let bytes = read(&source(&server), &blob, 300..900).await.unwrap();
    assert_eq!(bytes, content.slice(300..900));
    assert_eq!(ranges(&server), ["bytes=300-899", "bytes=400-999", "bytes=700-999"]);
}

#[tokio::test]
async fn a_damaged_whole_answer_is_fetched_once_more_around_caches() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000);
    server.push_faults(vec![Fault::IgnoreRange, Fault::FlipBit { bit: 0 }]);
    server.push_fault(Fault::IgnoreRange);
    let source = source(&server);
    let reads = (0..10).map(|_| read(&source, &blob, 990..1000));
    for bytes in join_all(reads).await {
        assert_eq!(bytes.unwrap(), content.slice(990..1000));
    }
    let requests = server.requests();
    let asked: Vec<_> = requests.iter().map(|request| request.cache_control.as_deref()).collect();
    assert_eq!(asked, [None, Some("no-cache")]);
}

#[tokio::test]
async fn a_whole_answer_that_stays_damaged_is_an_error() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000);
    for _ in 0..4 {
        server.push_faults(vec![Fault::IgnoreRange, Fault::FlipBit { bit: 0 }]);
    }
    let source = source(&server);
    let error = read(&source, &blob, 990..1000).await.unwrap_err();
    assert!(matches!(error, FetchError::DigestMismatch { .. }), "{error}");
    assert_eq!(read(&source, &blob, 0..1000).await.unwrap(), content);
    assert_eq!(server.requests().len(), 5);
}
