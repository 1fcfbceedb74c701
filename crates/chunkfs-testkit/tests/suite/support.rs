//! A client that shows what is on the wire.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use chunkfs_testkit::{FaultKind, FaultProxy, ProxyOptions, RangeServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Bytes of which no two neighbouring ranges are equal.
pub(crate) fn content(len: u32) -> Bytes {
    (0..len).flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>().into()
}

/// How an answer came: its head, what came of its body, and how that ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Whole,
    Closed,
    Reset,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).map_or(0, |status| status.parse().unwrap())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map(str::trim)
    }
}

/// Sends a request on a connection of its own and reads the answer until it is whole or broken.
pub(crate) async fn ask(address: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask_on(&mut stream, request).await
}

pub(crate) async fn ask_on(stream: &mut TcpStream, request: &str) -> Reply {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    loop {
        let head_len = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        let (head, body) = bytes.split_at(head_len.unwrap_or(0));
        let mut reply = Reply {
            head: String::from_utf8(head.to_vec()).unwrap(),
            body: body.to_vec(),
            end: End::Whole,
        };
        let len = reply.header("Content-Length").map(|len| len.parse::<usize>().unwrap());
        if len == Some(reply.body.len()) {
            return reply;
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) => reply.end = End::Closed,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                reply.end = End::Reset;
            }
            Ok(_) => continue,
        }
        return reply;
    }
}

pub(crate) fn get(path: &str, range: Option<&str>) -> String {
    let range = range.map_or(String::new(), |range| format!("Range: bytes={range}\r\n"));
    format!("GET {path} HTTP/1.1\r\nHost: registry.test\r\n{range}\r\n")
}

/// A server with a blob of 4000 bytes, and a proxy before it.
pub(crate) struct Fixture {
    pub(crate) server: RangeServer,
    pub(crate) proxy: FaultProxy,
    pub(crate) content: Bytes,
    pub(crate) path: String,
}

impl Fixture {
    pub(crate) async fn start(change: impl FnOnce(ProxyOptions) -> ProxyOptions) -> Self {
        let server = RangeServer::start().await;
        let content = content(1000);
        let path = format!("/v2/repo/blobs/{}", server.add_blob("repo", content.clone()));
        // A stall that is to be seen must also end.
        let options = ProxyOptions::new(server.address().to_string())
            .with_hold(Duration::from_millis(100))
            .with_seed(7);
        let proxy = FaultProxy::start(change(options)).await.unwrap();
        Self { server, proxy, content, path }
    }

    pub(crate) async fn always(kind: FaultKind) -> Self {
        Self::start(|options| options.with_kind_percent(kind, 100.0)).await
    }

    /// Asks the proxy for bytes 100 to 299 of the blob.
    pub(crate) async fn ask(&self) -> Reply {
        ask(self.proxy.address(), &get(&self.path, Some("100-299"))).await
    }
}
