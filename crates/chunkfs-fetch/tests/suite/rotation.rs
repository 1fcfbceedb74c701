//! Credentials that stop working and are replaced, while images are mounted.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chunkfs_fetch::{Credential, Credentials, CredentialsReason, FetchError};
use chunkfs_testkit::{Authorization, Fault, RangeServer};
use futures::future::join_all;

use crate::support::{add, options, read, source_with};

/// base64 of `user:old` and `user:new`.
const OLD: &str = "dXNlcjpvbGQ=";
const NEW: &str = "dXNlcjpuZXc=";

fn basic(encoded: &str) -> Authorization {
    Authorization::Basic { encoded: encoded.to_owned() }
}

fn bearer(encoded: &str) -> Authorization {
    let encoded = Some(encoded.to_owned());
    Authorization::Bearer { expires_in: Some(300), encoded, refresh_token: None }
}

fn credential(password: &str) -> Option<Credential> {
    Some(Credential::password("user", password))
}

/// Gives its credentials one after the other, and the last one for ever.
#[derive(Debug)]
struct Sequence {
    credentials: Mutex<Vec<Option<Credential>>>,
    asked_count: Mutex<usize>,
}

impl Sequence {
    fn new(credentials: Vec<Option<Credential>>) -> Arc<Self> {
        Arc::new(Self { credentials: Mutex::new(credentials), asked_count: Mutex::default() })
    }

    fn asked_count(&self) -> usize {
        *self.asked_count.lock().unwrap()
    }
}

#[async_trait]
impl Credentials for Sequence {
    async fn credentials(
        &self,
        _host: &str,
        _reason: CredentialsReason,
    ) -> Result<Option<Credential>, FetchError> {
        *self.asked_count.lock().unwrap() += 1;
        let mut credentials = self.credentials.lock().unwrap();
        Ok(if credentials.len() > 1 { credentials.remove(0) } else { credentials[0].clone() })
    }
}

/// How often the server saw credentials, old or new.
fn try_count(server: &RangeServer, authorization: &Authorization) -> usize {
    let is_basic = matches!(authorization, Authorization::Basic { .. });
    let shows = server
        .requests()
        .into_iter()
        .filter(|request| request.had_authorization && (is_basic || request.path == "/token"));
    shows.count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_learned_late_costs_few_tries_and_no_read() {
    for scheme in [basic, bearer] {
        let server = RangeServer::start().await;
        let (blob, content) = add(&server, 100);
        server.set_authorization(scheme(OLD));
        // The old one is given five more times, then none, then the new one.
        let mut sequence = vec![credential("old"); 6];
        sequence.extend([None, credential("new")]);
        let sequence = Sequence::new(sequence);
        let source = source_with(&server, options().with_credentials(sequence.clone()));
        read(&source, &blob, 0..1).await.unwrap();
        server.set_authorization(scheme(NEW));
        server.expire_tokens();
        server.clear_requests();
        let reads = join_all((0..100).map(|_| read(&source, &blob, 5..50))).await;
        assert!(reads.iter().all(|read| *read.as_ref().unwrap() == content.slice(5..50)));
        assert_eq!(sequence.asked_count(), 8, "asked once for all readers");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_never_comes_is_tried_ever_more_rarely() {
    for scheme in [basic, bearer] {
        let server = RangeServer::start().await;
        let (blob, _) = add(&server, 100);
        server.set_authorization(scheme(OLD));
        let sequence = Sequence::new(vec![credential("old")]);
        let options = options()
            .with_backoff(Duration::from_millis(50))
            .with_deadline(Duration::from_secs(4))
            .with_credentials(sequence.clone());
        let source = source_with(&server, options);
        read(&source, &blob, 0..1).await.unwrap();
        server.set_authorization(scheme(NEW));
        server.expire_tokens();
        server.clear_requests();
        let reads = join_all((0..100).map(|_| read(&source, &blob, 5..50))).await;
        assert!(reads.iter().all(Result::is_err));
        // 50 ms, doubled six times, are beyond the deadline. At first all lanes are under way.
        let tries = try_count(&server, &scheme(OLD));
        assert!(tries <= 16 + 12, "{tries} tries of a password that does not work");
        assert!(sequence.asked_count() <= 12, "{}", sequence.asked_count());
        let requests = server.requests().len();
        assert!(requests <= 100, "{requests} requests");
    }
}

#[tokio::test]
async fn a_password_that_expires_with_403_is_replaced() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 100);
    server.set_authorization(basic(OLD));
    let sequence = Sequence::new(vec![credential("old"), credential("new")]);
    let source = source_with(&server, options().with_credentials(sequence.clone()));
    read(&source, &blob, 0..1).await.unwrap();
    server.set_authorization(basic(NEW));
    server.clear_requests();
    server.push_fault(Fault::status(403));
    server.set_script(|_| Vec::new());
    // The test server says 401 to the old password; what comes first is the 403 of the queue.
    server.set_authorization(Authorization::None);
    assert_eq!(read(&source, &blob, 5..50).await.unwrap(), content.slice(5..50));
    assert_eq!((sequence.asked_count(), server.requests().len()), (2, 2));
    // Rights are the usual reason: the same credentials are not asked for again and again.
    server.clear_requests();
    server.set_script(|_| vec![Fault::status(403)]);
    let error = read(&source, &blob, 5..50).await.unwrap_err();
    assert!(matches!(error, FetchError::Forbidden { .. }), "{error}");
    assert_eq!((sequence.asked_count(), server.requests().len()), (2, 7));
}
