//! Answers that are too slow, and what is done about them.

use std::time::Duration;

use chunkfs_fetch::{BlobSource as _, Priority, RegistryReference, RegistrySource};
use chunkfs_testkit::{Fault, RangeServer};
use futures::future::join_all;

use crate::support::{add, check_drip, check_shared_pause, options, ranges, read, source_with};

#[tokio::test]
async fn a_drip_counts_as_a_stall_and_is_resumed() {
    let server = RangeServer::start().await;
    let blob = add(&server, 2000);
    let source = source_with(&server, options().with_progress_timeout(Duration::from_millis(300)));
    check_drip(&server, &source, blob).await;
}

#[tokio::test]
async fn a_slow_answer_with_progress_is_not_given_up() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 3000);
    server.push_fault(Fault::Drip { piece_len: 1000, pause: Duration::from_millis(150) });
    let source = source_with(&server, options().with_progress_timeout(Duration::from_millis(900)));
    assert_eq!(read(&source, &blob, 0..3000).await.unwrap(), content);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_reset_connection_is_resumed_at_the_byte_reached() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000);
    server.push_fault(Fault::Reset { after: 0 });
    let source = source_with(&server, options());
    assert_eq!(read(&source, &blob, 100..900).await.unwrap(), content.slice(100..900));
    assert_eq!(ranges(&server), ["bytes=100-899", "bytes=100-899"]);
}

fn hedged(server: &RangeServer) -> RegistrySource {
    source_with(server, options().with_hedge_after(Some(Duration::from_millis(100))))
}

#[tokio::test]
async fn a_demand_read_that_stands_still_gets_a_second_request() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000);
    let source = hedged(&server);
    read(&source, &blob, 0..1).await.unwrap();
    for fault in [Fault::StallHead, Fault::Stall { after: 50 }] {
        server.clear_requests();
        server.push_fault(fault);
        assert_eq!(read(&source, &blob, 0..100).await.unwrap(), content.slice(0..100));
        assert_eq!(ranges(&server), ["bytes=0-99", "bytes=0-99"]);
    }
    assert_eq!(source.counters().hedged_reads, 2);
}

#[tokio::test]
async fn a_read_that_is_too_slow_for_its_deadline_gets_a_second_request() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 100_000);
    let source = source_with(
        &server,
        options()
            .with_hedge_after(Some(Duration::from_millis(100)))
            .with_deadline(Duration::from_secs(6)),
    );
    read(&source, &blob, 0..1).await.unwrap();
    // 10 KB in a second: neither a stall nor a trickle, but all would take ten.
    server.push_fault(Fault::Drip { piece_len: 500, pause: Duration::from_millis(50) });
    assert_eq!(read(&source, &blob, 0..100_000).await.unwrap(), content);
    assert_eq!(ranges(&server)[1..], ["bytes=0-99999", "bytes=0-99999"]);
    assert_eq!(source.counters().hedged_reads, 1);
}

#[tokio::test]
async fn neither_prefetch_nor_blobs_that_may_come_whole_get_second_requests() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000);
    let source = hedged(&server);
    server.set_delay(Duration::from_millis(300));
    // The first read finds out about ranges; the others wait for its head.
    let reads = (0..20).map(|_| read(&source, &blob, 0..1000));
    server.push_fault(Fault::IgnoreRange);
    assert!(join_all(reads).await.iter().all(|bytes| *bytes.as_ref().unwrap() == content));
    assert_eq!(server.requests().len(), 1);
    let (blob, _) = add(&server, 999);
    read(&source, &blob, 0..1).await.unwrap();
    server.clear_requests();
    source.read_range(&blob, 0..10, Priority::Prefetch).await.unwrap();
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_pause_is_shared_by_the_sources_of_all_images() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    let options = options();
    let first = source_with(&server, options.clone());
    let other: RegistryReference =
        format!("docker://{}/other/image", server.address()).parse().unwrap();
    let second = RegistrySource::new(other, options).unwrap();
    server.add_blob("other/image", crate::support::content(100));
    check_shared_pause(&server, &blob, (&first, &second)).await;
}
