//! What is broken: by seed, by path, by method.

use std::time::Duration;

use chunkfs_testkit::{FaultKind, FaultProxy, ProxyOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::{End, Fixture, ask, get};

/// The faults of 60 ranges, each asked for twice, in an order that `seed` does not change.
async fn faults(seed: u64, is_reversed: bool) -> Vec<(Option<String>, Option<FaultKind>)> {
    let fixture = Fixture::start(|options| {
        let options = options.with_drip(1000, Duration::from_millis(1));
        options.with_hold(Duration::from_millis(5)).with_seed(seed).with_percent(5.0)
    })
    .await;
    let mut starts: Vec<u32> = (0..120).map(|number| number % 60 * 50).collect();
    if is_reversed {
        starts.reverse();
    }
    for start in starts {
        let range = format!("{start}-{}", start + 99);
        ask(fixture.proxy.address(), &get(&fixture.path, Some(&range))).await;
    }
    let requests = fixture.proxy.requests().into_iter();
    let requests = requests.filter(|request| request.path == fixture.path);
    requests.map(|request| (request.range, request.fault)).collect()
}

#[tokio::test]
async fn a_seed_decides_about_every_fault() {
    let first = faults(7, false).await;
    assert_eq!(faults(7, false).await, first);
    assert_ne!(faults(8, false).await, first);
    // 27 kinds at 5 percent leave one request in four alone.
    let broken_count = first.iter().filter(|(_, fault)| fault.is_some()).count();
    assert_eq!((first.len(), broken_count), (120, 94));
}

#[tokio::test]
async fn the_order_of_different_requests_changes_no_fault() {
    let (mut forwards, mut backwards) = (faults(7, false).await, faults(7, true).await);
    // The order of the two requests for one range stays.
    forwards.sort_by(|one, other| one.0.cmp(&other.0));
    backwards.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(forwards, backwards);
}

#[tokio::test]
async fn a_share_of_the_requests_can_be_broken() {
    for (share, expected) in [(0.0, 0), (5.0, 26), (100.0, 500)] {
        let fixture = Fixture::start(|options| {
            let options = options.with_drip(1000, Duration::from_millis(1));
            options.with_hold(Duration::from_millis(1)).with_share_percent(share)
        })
        .await;
        for start in 0..500 {
            let range = format!("{start}-{}", start + 9);
            ask(fixture.proxy.address(), &get(&fixture.path, Some(&range))).await;
        }
        let broken_count: u64 = fixture.proxy.totals().faults.values().sum();
        assert_eq!(broken_count, expected, "{share} percent");
    }
}

#[tokio::test]
async fn only_what_was_chosen_is_broken() {
    type Change = fn(ProxyOptions) -> ProxyOptions;
    let manifest = "/v2/repo/manifests/tag";
    let cases: [(Change, &str, &str, u16); 9] = [
        (|options| options, "GET", "BLOB", 403),
        (|options| options, "HEAD", "BLOB", 200),
        (|options| options, "GET", manifest, 404),
        (|options| options.with_everything(true), "HEAD", "BLOB", 403),
        (|options| options.with_everything(true), "GET", manifest, 403),
        (|options| options.with_only_path("/blobs/"), "GET", "BLOB", 403),
        (|options| options.with_only_path("/other/"), "GET", "BLOB", 200),
        (|options| options.with_only_method("GET"), "GET", "BLOB", 403),
        (|options| options.with_everything(true).with_only_method("PUT"), "GET", "BLOB", 200),
    ];
    for (number, (change, method, path, status)) in cases.into_iter().enumerate() {
        let fixture = Fixture::start(|options| {
            change(options).with_kind_percent(FaultKind::Forbidden, 100.0)
        })
        .await;
        let path = path.replace("BLOB", &fixture.path);
        // HTTP/1.0, so that a HEAD with a length does not wait for a body.
        let request = format!("{method} {path} HTTP/1.0\r\nHost: x\r\n\r\n");
        let reply = ask(fixture.proxy.address(), &request).await;
        assert_eq!(reply.status(), status, "case {number}: {method} {path}");
    }
}

#[tokio::test]
async fn faults_of_ranges_leave_other_requests_alone() {
    let kinds = [
        FaultKind::IgnoreRange,
        FaultKind::ShortRange,
        FaultKind::ShiftedRange,
        FaultKind::NoTotal,
        FaultKind::WrongTotal,
    ];
    for kind in kinds {
        let fixture = Fixture::always(kind).await;
        let reply = ask(fixture.proxy.address(), &get(&fixture.path, None)).await;
        assert_eq!((reply.status(), reply.body.as_slice()), (200, &fixture.content[..]), "{kind}");
        assert_eq!(fixture.proxy.totals().faults.len(), 0, "{kind}");
    }
}

#[tokio::test]
async fn the_host_of_the_client_is_kept_unless_one_is_given() {
    for (given, expected) in [(None, "registry.test"), (Some("given.test"), "given.test")] {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut options = ProxyOptions::new(upstream.local_addr().unwrap().to_string());
        if let Some(given) = given {
            options = options.with_host(given);
        }
        let proxy = FaultProxy::start(options).await.unwrap();
        let request = "GET /a%20b?c=d HTTP/1.1\r\nHost: registry.test\r\nX: y\r\n\r\n";
        let (reply, seen) = tokio::join!(ask(proxy.address(), request), async {
            let mut stream = upstream.accept().await.unwrap().0;
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut seen).await.unwrap();
            }
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await.unwrap();
            String::from_utf8(seen).unwrap()
        });
        let expected = format!(
            "GET /a%20b?c=d HTTP/1.1\r\nHost: {expected}\r\nX: y\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(seen, expected);
        assert_eq!(reply.head, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        assert_eq!((reply.body.as_slice(), reply.end), (&b"until the end"[..], End::Closed));
    }
}

#[test]
fn names_of_faults_are_read_back() {
    for kind in FaultKind::ALL {
        assert_eq!(kind.name().parse(), Ok(kind));
    }
    let problem = "teapot".parse::<FaultKind>().unwrap_err();
    assert!(problem.starts_with("teapot is not a fault; there are 429-seconds, "), "{problem}");
}
