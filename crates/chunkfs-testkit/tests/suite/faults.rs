//! Each kind of fault, when it always happens.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chunkfs_testkit::{FaultKind, ProxiedRequest};

use crate::support::{End, Fixture, ask, get};

/// What the server sends for the range that the fixture asks for.
const HEAD: &str = "HTTP/1.1 206 Test\r\nContent-Range: bytes 100-299/4000\r\n\
                    Docker-Content-Digest: DIGEST\r\nAccept-Ranges: bytes\r\n\
                    Content-Length: 200\r\n\r\n";

fn head(fixture: &Fixture) -> String {
    HEAD.replace("DIGEST", fixture.path.rsplit('/').next().unwrap())
}

/// Checks that the proxy saw one request for the range, and this of the answer.
fn assert_logged(fixture: &Fixture, status: u16, fault: FaultKind, bytes_sent: u64) {
    let expected = ProxiedRequest {
        method: "GET".to_owned(),
        path: fixture.path.clone(),
        range: Some("bytes=100-299".to_owned()),
        status,
        fault: Some(fault),
        bytes_sent,
    };
    assert_eq!(fixture.proxy.requests(), [expected]);
    let totals = fixture.proxy.totals();
    assert_eq!((totals.requests, totals.bytes_sent), (1, bytes_sent));
    assert_eq!(totals.faults, BTreeMap::from([(fault, 1)]));
    let statuses = (status != 0).then_some((status, 1));
    assert_eq!(totals.statuses, statuses.into_iter().collect());
}

#[tokio::test]
async fn statuses_come_instead_of_the_answer() {
    let challenge = "WWW-Authenticate: Bearer realm=\"http://registry.test/.fault-proxy/token\",\
                     service=\"nobody\",scope=\"repository:none:pull\"\r\n";
    let cases = [
        (FaultKind::ThrottledSeconds, 429, "Retry-After: 1\r\n"),
        (FaultKind::Throttled, 429, ""),
        (FaultKind::InternalError, 500, ""),
        (FaultKind::BadGateway, 502, ""),
        (FaultKind::Unavailable, 503, ""),
        (FaultKind::GatewayTimeout, 504, ""),
        (FaultKind::Unauthorized, 401, ""),
        (FaultKind::WrongChallenge, 401, challenge),
        (FaultKind::Forbidden, 403, ""),
        (FaultKind::NotFound, 404, ""),
        (FaultKind::BadRequest, 400, ""),
    ];
    for (kind, status, header) in cases {
        let fixture = Fixture::always(kind).await;
        let reply = fixture.ask().await;
        let expected = format!("HTTP/1.1 {status} Test\r\n{header}Content-Length: 0\r\n\r\n");
        assert_eq!((reply.head, reply.body, reply.end), (expected, vec![], End::Whole), "{kind}");
        assert_eq!(fixture.server.requests(), [], "{kind}");
        assert_logged(&fixture, status, kind, 0);
    }
}

#[tokio::test]
async fn a_retry_after_can_be_a_date() {
    let fixture = Fixture::always(FaultKind::ThrottledDate).await;
    let reply = fixture.ask().await;
    assert_eq!(reply.status(), 429);
    let date = reply.header("Retry-After").unwrap();
    assert_eq!((date.len(), &date[3..5], &date[25..]), (29, ", ", " GMT"));
    assert_logged(&fixture, 429, FaultKind::ThrottledDate, 0);
}

#[tokio::test]
async fn a_false_416_claims_a_body_and_sends_none() {
    let fixture = Fixture::always(FaultKind::NotSatisfiable).await;
    let reply = fixture.ask().await;
    assert_eq!(reply.head, "HTTP/1.1 416 Test\r\nContent-Length: 159031631\r\n\r\n");
    assert_eq!((reply.body, reply.end), (vec![], End::Closed));
    assert_eq!(fixture.server.requests(), []);
    assert_logged(&fixture, 416, FaultKind::NotSatisfiable, 0);
}

#[tokio::test]
async fn an_expired_redirect_leads_to_403() {
    let fixture = Fixture::always(FaultKind::Expired).await;
    let reply = fixture.ask().await;
    assert_eq!((reply.status(), reply.end == End::Whole), (307, true));
    assert_logged(&fixture, 307, FaultKind::Expired, 0);
    let target = reply.header("Location").unwrap().strip_prefix("http://registry.test").unwrap();
    let refusal = ask(fixture.proxy.address(), &get(target, Some("100-299"))).await;
    assert_eq!(refusal.head, "HTTP/1.1 403 Test\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(fixture.proxy.requests()[1].path, "/.fault-proxy/expired");
    assert_eq!(fixture.server.requests(), []);
}

#[tokio::test]
async fn an_answer_can_fail_to_come() {
    for (kind, duration_min) in [(FaultKind::Close, 0), (FaultKind::StallHead, 100)] {
        let fixture = Fixture::always(kind).await;
        let start = Instant::now();
        let reply = fixture.ask().await;
        assert!(start.elapsed() >= Duration::from_millis(duration_min), "{kind}");
        assert_eq!((reply.head.as_str(), reply.end), ("", End::Closed), "{kind}");
        assert_eq!(fixture.server.requests(), [], "{kind}");
        assert_logged(&fixture, 0, kind, 0);
    }
}

#[tokio::test]
async fn a_body_can_end_too_early() {
    let cases = [
        (FaultKind::Cut, End::Closed, 0),
        (FaultKind::Reset, End::Reset, 0),
        (FaultKind::Stall, End::Closed, 100),
    ];
    for (kind, end, duration_min) in cases {
        let fixture = Fixture::always(kind).await;
        let start = Instant::now();
        let reply = fixture.ask().await;
        assert!(start.elapsed() >= Duration::from_millis(duration_min), "{kind}");
        // The same seed leaves the same chance to each of them.
        let sent = 30;
        assert_eq!(reply.end, end, "{kind}");
        if kind != FaultKind::Reset {
            // A reset may overtake what was sent before it.
            assert_eq!(reply.head, head(&fixture), "{kind}");
            assert_eq!(reply.body, fixture.content[100..100 + sent], "{kind}");
        }
        assert_logged(&fixture, 206, kind, sent as u64);
    }
}

#[tokio::test]
async fn a_dripping_body_comes_slowly_and_whole() {
    let fixture = Fixture::start(|options| {
        options.with_kind_percent(FaultKind::Drip, 100.0).with_drip(50, Duration::from_millis(20))
    })
    .await;
    let start = Instant::now();
    let reply = fixture.ask().await;
    assert!(start.elapsed() >= Duration::from_millis(80));
    assert_eq!((reply.head, reply.end), (head(&fixture), End::Whole));
    assert_eq!(reply.body, fixture.content[100..300]);
    assert_logged(&fixture, 206, FaultKind::Drip, 200);
}

#[tokio::test]
async fn one_bit_can_be_inverted() {
    let fixture = Fixture::always(FaultKind::FlipBit).await;
    let reply = fixture.ask().await;
    assert_eq!((reply.head, reply.end), (head(&fixture), End::Whole));
    let mut expected = fixture.content[100..300].to_vec();
    expected[153] ^= 1 << 6;
    assert_eq!(reply.body, expected);
    assert_logged(&fixture, 206, FaultKind::FlipBit, 200);
}

#[tokio::test]
async fn an_identity_body_can_be_called_gzip() {
    let fixture = Fixture::always(FaultKind::Gzip).await;
    let reply = fixture.ask().await;
    let head = head(&fixture);
    let expected = format!("{}Content-Encoding: gzip\r\n\r\n", &head[..head.len() - 2]);
    let order = |head: &str| {
        let mut lines: Vec<_> = head.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(order(&reply.head), order(&expected));
    assert_eq!((reply.body.as_slice(), reply.end), (&fixture.content[100..300], End::Whole));
    assert_logged(&fixture, 206, FaultKind::Gzip, 200);
}

#[tokio::test]
async fn a_range_can_be_ignored() {
    let fixture = Fixture::always(FaultKind::IgnoreRange).await;
    let reply = fixture.ask().await;
    assert_eq!((reply.status(), reply.header("Content-Range")), (200, None));
    assert_eq!(reply.body, fixture.content);
    assert_eq!(fixture.server.requests()[0].range, None);
    assert_logged(&fixture, 200, FaultKind::IgnoreRange, 4000);
}

#[tokio::test]
async fn ranges_can_be_shorter_or_shifted_and_say_so() {
    let cases = [
        (FaultKind::ShortRange, 100, 206, "bytes 100-205/4000"),
        (FaultKind::ShiftedRange, 206, 406, "bytes 206-405/4000"),
    ];
    for (kind, start, end, content_range) in cases {
        let fixture = Fixture::always(kind).await;
        let reply = fixture.ask().await;
        assert_eq!((reply.status(), reply.header("Content-Range")), (206, Some(content_range)));
        assert_eq!(reply.body, fixture.content[start..end], "{kind}");
        assert_logged(&fixture, 206, kind, (end - start) as u64);
    }
}

#[tokio::test]
async fn the_length_of_the_whole_can_be_left_out_or_wrong() {
    let cases = [(FaultKind::NoTotal, "*"), (FaultKind::WrongTotal, "4031")];
    for (kind, total) in cases {
        let fixture = Fixture::always(kind).await;
        let reply = fixture.ask().await;
        assert_eq!(reply.head, head(&fixture).replace("/4000", &format!("/{total}")), "{kind}");
        assert_eq!(reply.body, fixture.content[100..300], "{kind}");
        assert_logged(&fixture, 206, kind, 200);
    }
}
