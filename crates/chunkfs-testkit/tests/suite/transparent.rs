//! What passes through unbroken.

use chunkfs_testkit::{RangeServer, Redirect};
use tokio::net::TcpStream;

use crate::support::{Fixture, ask, ask_on, content, get};

#[tokio::test]
async fn a_proxy_that_breaks_nothing_passes_every_byte_on() {
    let fixture = Fixture::start(|options| options).await;
    let manifest = bytes::Bytes::from_static(b"{}");
    fixture.server.add_manifest("repo", "tag", "application/json", manifest);
    let large = fixture.server.add_blob("repo", content(300_000));
    let large = format!("/v2/repo/blobs/{large}");
    let missing = format!("/v2/none/blobs/{}", fixture.path.rsplit('/').next().unwrap());
    let mut kept = TcpStream::connect(fixture.proxy.address()).await.unwrap();
    let cases = [
        ("/v2/", None),
        ("/v2/repo/manifests/tag", None),
        (&fixture.path, None),
        (&fixture.path, Some("0-0")),
        (&fixture.path, Some("3999-")),
        (&fixture.path, Some("4000-4001")),
        (&large, None),
        (&large, Some("70000-900000")),
        (&missing, None),
    ];
    for (path, range) in cases {
        let request = get(path, range);
        let direct = ask(fixture.server.address(), &request).await;
        assert_eq!(ask_on(&mut kept, &request).await, direct, "{path} {range:?}");
    }
    let totals = fixture.proxy.totals();
    assert_eq!((totals.requests, totals.faults.len()), (9, 0));
    assert_eq!(totals.bytes_sent, fixture.server.bytes_sent() / 2);
}

#[tokio::test]
async fn uploads_pass_whole_or_in_chunks() {
    let fixture = Fixture::start(|options| options).await;
    let put = "PUT /files/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let whole = format!("{put}Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    let reply = ask(fixture.proxy.address(), &whole).await;
    assert_eq!(reply.head, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(reply.body, b"HTTP/1.1 201 Test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(fixture.server.file("/files/a").as_deref(), Some(&b"hello"[..]));
    // The test server takes no chunks, so that its refusal shows that they arrive as such.
    let chunked = format!("{put}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(ask(fixture.proxy.address(), &chunked).await.status(), 400);
}

#[tokio::test]
async fn redirects_to_the_upstream_lead_back_to_the_proxy() {
    let fixture = Fixture::start(|options| options).await;
    fixture.server.redirect_blobs_to(&fixture.server, Redirect::default());
    let reply = fixture.ask().await;
    let digest = fixture.path.rsplit('/').next().unwrap();
    let location = format!("http://registry.test/storage/{digest}?X-Signature=secret-signature-1");
    assert_eq!(reply.header("Location"), Some(location.as_str()));
}

#[tokio::test]
async fn redirects_elsewhere_are_rewritten_as_asked_for() {
    let storage = RangeServer::start().await;
    let from = storage.address().to_string();
    let fixture = Fixture::start(|options| options.with_rewrite(&from, "proxy.test:1")).await;
    fixture.server.redirect_blobs_to(&storage, Redirect::default());
    let location = fixture.ask().await.header("Location").unwrap().to_owned();
    assert!(location.starts_with("http://proxy.test:1/storage/sha256:"), "{location}");
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_bad_gateway() {
    let fixture = Fixture::start(|options| options.with_upstream("127.0.0.1:1")).await;
    let reply = fixture.ask().await;
    assert_eq!(reply.head, "HTTP/1.1 502 Test\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(fixture.proxy.totals().faults.len(), 0);
}

#[tokio::test]
async fn a_stopped_proxy_refuses_connections() {
    let fixture = Fixture::start(|options| options).await;
    let address = fixture.proxy.address();
    fixture.proxy.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}
