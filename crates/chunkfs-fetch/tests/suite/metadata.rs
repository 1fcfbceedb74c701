//! A server of short texts, as instances and containers have one that gives out credentials.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Which header proves that a request may be answered, in lower case.
const PROOFS: [&str; 3] = ["x-aws-ec2-metadata-token", "authorization", "metadata"];

#[derive(Clone)]
pub(crate) struct Metadata {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, (&'static str, String)>,
    requests: Vec<String>,
}

impl Metadata {
    /// Starts a server that ends with the runtime of the test.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, state: Arc::default() };
        let answering = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = answering.clone();
                tokio::spawn(async move { server.answer(stream).await });
            }
        });
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sets the answer to a request such as `GET /path`; the others are answered with 404.
    pub(crate) fn set(&self, request: &str, text: impl Into<String>) {
        self.set_with_status(request, "200 OK", text);
    }

    pub(crate) fn set_with_status(
        &self,
        request: &str,
        status: &'static str,
        text: impl Into<String>,
    ) {
        let answer = (status, text.into());
        self.state.lock().unwrap().answers.insert(request.to_owned(), answer);
    }

    /// Returns the requests since the last call: method, path without query, and proof.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    async fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        let mut lines = head.lines();
        let (request, _version) = lines.next()?.rsplit_once(' ')?;
        let request = request.split('?').next()?.to_owned();
        let proof = lines.find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            PROOFS.contains(&&*name.to_ascii_lowercase()).then(|| format!(" {value}"))
        });
        let answer = {
            let mut state = self.state.lock().unwrap();
            state.requests.push(format!("{request}{}", proof.unwrap_or_default()));
            state.answers.get(&request).cloned()
        };
        let (status, text) = answer.unwrap_or(("404 Not Found", String::new()));
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", text.len());
        let answer = format!("{head}Connection: close\r\n\r\n{text}");
        stream.write_all(answer.as_bytes()).await.ok()
    }
}
