//! One request on its way through a proxy.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::body::{BodyReader, Framing, read_final_head, write_piece};
use super::draw::{Drawn, Draws};
use super::head::{RequestHead, ResponseHead};
use super::log::{Entry, Log};
use super::options::ProxyOptions;
use super::own;
use crate::answer::Answer;
use crate::fault::Fault;
use crate::http::read_head;

/// How long a connection may be silent while something is expected of it.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// What the connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: ProxyOptions,
    pub(super) address: SocketAddr,
    pub(super) log: Log,
    pub(super) draws: Draws,
    pub(super) streams: Semaphore,
}

/// A connection, and what was read from it beyond the current message.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Serves a connection until either side has had enough.
pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut client = Connection { stream, buffer: Vec::new() };
    loop {
        let head = read_head(&mut client.stream, &mut client.buffer).await;
        let request =
            match head.and_then(|head| head.as_deref().map(RequestHead::parse).transpose()) {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(_) => {
                    let _ = client.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                    return;
                }
            };
        let entry = shared.log.enter(&request);
        match (Exchange { shared: &shared, entry }).run(&mut client, request).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
    }
}

struct Exchange<'a> {
    shared: &'a Shared,
    entry: Entry<'a>,
}

impl Exchange<'_> {
    /// Answers a request and returns whether the connection can be used again.
    async fn run(&self, client: &mut Connection, mut request: RequestHead) -> io::Result<bool> {
        let options = &self.shared.options;
        let mut drawn = self.shared.draws.draw(&request, options);
        // Closed never, so that this only waits.
        let _permit = self.shared.streams.acquire().await;
        let host = request.host().map_or_else(|| self.shared.address.to_string(), str::to_owned);
        if let Some(status) = own::status(&request.path) {
            return self.answer(client, &request, Answer::new(status)).await;
        }
        let fault = drawn.as_mut().and_then(|drawn| drawn.before(&request, &host));
        if let Some((drawn, fault)) = drawn.as_ref().zip(fault.as_ref())
            && let Some(result) = self.instead(client, &request, drawn, fault).await
        {
            return result;
        }
        match &fault {
            Some(Fault::IgnoreRange) => {
                request.fields.remove("Range");
                request.fields.remove("If-Range");
            }
            Some(Fault::ShortRange { len }) => request.move_range(0, Some(*len)),
            Some(Fault::ShiftedRange { by }) => request.move_range(*by, None),
            _ => {}
        }
        let (mut upstream, mut response) = match self.ask(client, &mut request).await {
            Ok(answered) => answered,
            Err(_) => return self.answer(client, &request, Answer::new(502)).await,
        };
        let fault = drawn.and_then(|mut drawn| {
            let fault = drawn.after(&mut response, fault, options)?;
            self.entry.broken(drawn.kind);
            Some(fault)
        });
        options.rewrite(&mut response, &host);
        let keeps_alive = request.keeps_alive && response.framing != Framing::Close;
        client.stream.write_all(response.write(keeps_alive).as_bytes()).await?;
        self.entry.answered(response.status);
        let is_whole = self.send_body(client, &mut upstream, response.framing, fault).await?;
        Ok(is_whole && keeps_alive)
    }

    /// Does what happens instead of asking the upstream, if that is so.
    async fn instead(
        &self,
        client: &mut Connection,
        request: &RequestHead,
        drawn: &Drawn,
        fault: &Fault,
    ) -> Option<io::Result<bool>> {
        let Fault::Status { status, headers } = fault else {
            let stalls = *fault == Fault::StallHead;
            if !stalls && *fault != Fault::Close {
                return None;
            }
            self.entry.broken(drawn.kind);
            if stalls {
                self.hold(client).await;
            }
            return Some(Ok(false));
        };
        self.entry.broken(drawn.kind);
        let answer = Answer { headers: headers.clone(), ..Answer::new(*status) };
        let claims_body = headers.iter().any(|(name, _)| name == "Content-Length");
        let answered = self.answer(client, request, answer).await;
        if claims_body && answered.is_ok() {
            self.hold(client).await;
            return Some(Ok(false));
        }
        Some(answered)
    }

    /// Answers without the upstream and without a body.
    async fn answer(
        &self,
        client: &mut Connection,
        request: &RequestHead,
        answer: Answer,
    ) -> io::Result<bool> {
        // A body that was not read would be taken for the next request.
        let keeps_alive = request.keeps_alive && request.framing == Framing::None;
        let status = answer.status;
        let answer = if keeps_alive { answer } else { answer.header("Connection", "close") };
        client.stream.write_all(answer.head().as_bytes()).await?;
        self.entry.answered(status);
        Ok(keeps_alive)
    }

    /// Sends a request upstream, on a connection of its own, and returns the head of the answer.
    async fn ask(
        &self,
        client: &mut Connection,
        request: &mut RequestHead,
    ) -> io::Result<(Connection, ResponseHead)> {
        let options = &self.shared.options;
        if request.fields.has_word("expect", "100-continue") {
            client.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            request.fields.remove("Expect");
        }
        if let Some(host) = &options.host {
            request.fields.set("Host", host.clone());
        }
        let stream = self.within(TcpStream::connect(&options.upstream)).await?;
        let _ = stream.set_nodelay(true);
        let mut upstream = Connection { stream, buffer: Vec::new() };
        upstream.stream.write_all(request.write().as_bytes()).await?;
        let mut body = BodyReader::new(request.framing);
        let mut is_refused = false;
        while let Some(piece) =
            self.within(body.next(&mut client.stream, &mut client.buffer)).await?
        {
            // An upstream that takes no more may have said why, so the rest is only read.
            is_refused = is_refused
                || self
                    .within(write_piece(&mut upstream.stream, request.framing, &piece))
                    .await
                    .is_err();
        }
        if request.framing == Framing::Chunked && !is_refused {
            write_piece(&mut upstream.stream, request.framing, &[]).await?;
        }
        let head = self.within(read_final_head(&mut upstream.stream, &mut upstream.buffer)).await?;
        let response = ResponseHead::parse(&head, &request.method)?;
        Ok((upstream, response))
    }

    /// Passes a body on, as changed by a fault; returns whether it came to its end.
    async fn send_body(
        &self,
        client: &mut Connection,
        upstream: &mut Connection,
        framing: Framing,
        fault: Option<Fault>,
    ) -> io::Result<bool> {
        let end = match fault {
            Some(Fault::CutBody { after } | Fault::Reset { after } | Fault::Stall { after }) => {
                after
            }
            _ => u64::MAX,
        };
        let (step, pause) = match fault {
            Some(Fault::Drip { piece_len, pause }) => {
                (usize::try_from(piece_len).unwrap_or(usize::MAX), pause)
            }
            _ => (usize::MAX, Duration::ZERO),
        };
        let mut body = BodyReader::new(framing);
        let mut offset = 0;
        while let Some(mut piece) =
            self.within(body.next(&mut upstream.stream, &mut upstream.buffer)).await?
        {
            if let Some(Fault::FlipBit { bit }) = fault {
                flip(&mut piece, offset, bit);
            }
            let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let is_end = piece.len() >= left;
            piece.truncate(left);
            offset += piece.len() as u64;
            for part in piece.chunks(step) {
                tokio::time::sleep(pause).await;
                write_piece(&mut client.stream, framing, part).await?;
                self.entry.sent(part.len());
            }
            if is_end {
                match fault {
                    // Closing with nothing left to linger for sends RST.
                    Some(Fault::Reset { .. }) => client.stream.set_zero_linger()?,
                    Some(Fault::Stall { .. }) => self.hold(client).await,
                    _ => {}
                }
                return Ok(false);
            }
        }
        if framing == Framing::Chunked {
            write_piece(&mut client.stream, framing, &[]).await?;
        }
        Ok(true)
    }

    /// Waits until the client leaves, at most as long as a stall lasts.
    async fn hold(&self, client: &mut Connection) {
        let mut ignored = [0; 1 << 10];
        let left =
            async { while client.stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {} };
        let _ = tokio::time::timeout(self.shared.options.hold, left).await;
    }

    /// Waits for the other side, but not for ever.
    async fn within<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let timed = tokio::time::timeout(SILENCE_MAX, work).await;
        timed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Inverts a bit of a body, if it is in the piece that begins at `offset`.
fn flip(piece: &mut [u8], offset: u64, bit: u64) {
    let index = (bit / 8).checked_sub(offset).map(usize::try_from);
    if let Some(byte) = index.and_then(|index| piece.get_mut(index.ok()?)) {
        *byte ^= 1 << (bit % 8);
    }
}
