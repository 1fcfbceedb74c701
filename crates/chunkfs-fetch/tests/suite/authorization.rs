use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use chunkfs_fetch::{
    Credential, Credentials, CredentialsReason, DockerConfigCredentials, FetchError,
    StaticCredentials,
};
use chunkfs_testkit::{Authorization, Fault, RangeServer};
use futures::future::join_all;

use crate::support::{add, options, read, source, source_with, whole_text};

/// base64 of `user:secret-password`.
const ENCODED: &str = "dXNlcjpzZWNyZXQtcGFzc3dvcmQ=";

fn password() -> Credential {
    Credential::password("user", "secret-password")
}

fn with_static(credential: Credential) -> chunkfs_fetch::RegistryOptions {
    options().with_credentials(Arc::new(StaticCredentials::new(credential)))
}

fn bearer(expires_in: Option<u64>) -> Authorization {
    Authorization::Bearer { expires_in, encoded: Some(ENCODED.to_owned()), refresh_token: None }
}

fn token_request_count(server: &RangeServer) -> usize {
    server.requests().iter().filter(|request| request.path == "/token").count()
}

#[tokio::test]
async fn basic_authentication_works() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 100);
    server.set_authorization(Authorization::Basic { encoded: ENCODED.to_owned() });
    let source = source_with(&server, with_static(password()));
    for _ in 0..3 {
        assert_eq!(read(&source, &blob, 0..100).await.unwrap(), content);
    }
    let authorized: Vec<_> =
        server.requests().iter().map(|request| request.had_authorization).collect();
    assert_eq!(authorized, [false, true, true, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_readers_with_an_expired_token_cause_one_token_request() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 100);
    server.set_authorization(bearer(Some(1)));
    let source = source_with(&server, with_static(password()));
    read(&source, &blob, 0..1).await.unwrap();
    assert_eq!(token_request_count(&server), 1);
    // By the clock: the readers know that it has expired and send nothing with it.
    tokio::time::sleep(Duration::from_millis(950)).await;
    server.set_authorization(bearer(Some(300)));
    server.expire_tokens();
    server.clear_requests();
    let reads = |count: usize| join_all((0..count).map(|_| read(&source, &blob, 0..100)));
    assert!(reads(100).await.iter().all(|result| *result.as_ref().unwrap() == content));
    assert_eq!(token_request_count(&server), 1);
    assert_eq!(server.requests().len(), 101);
    // By surprise: those that are under way are refused once each.
    server.expire_tokens();
    server.clear_requests();
    assert!(reads(100).await.iter().all(Result::is_ok));
    assert_eq!(token_request_count(&server), 1);
    let refused = server.requests().iter().filter(|request| request.status == 401).count();
    assert!((1..=16).contains(&refused), "{refused}");
    assert_eq!(server.requests().len(), 101 + refused);
}

#[tokio::test]
async fn an_expired_token_that_is_answered_with_403_is_renewed_once() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    server.set_authorization(bearer(Some(300)));
    let source = source_with(&server, with_static(password()));
    read(&source, &blob, 0..1).await.unwrap();
    server.push_fault(Fault::status(403));
    read(&source, &blob, 0..1).await.unwrap();
    assert_eq!(token_request_count(&server), 2);
    server.set_script(
        |request| {
            if request.path == "/token" { Vec::new() } else { vec![Fault::status(403)] }
        },
    );
    let error = read(&source, &blob, 0..1).await.unwrap_err();
    assert!(matches!(error, FetchError::Forbidden { .. }), "{error}");
    // Asked again six times, as it worked before.
    assert_eq!(token_request_count(&server), 2 + 7);
}

#[tokio::test]
async fn identity_tokens_are_exchanged_by_post() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    server.set_authorization(Authorization::Bearer {
        expires_in: None,
        encoded: Some(ENCODED.to_owned()),
        refresh_token: Some("secret &+ token".to_owned()),
    });
    let credential = Credential::IdentityToken("secret &+ token".to_owned());
    read(&source_with(&server, with_static(credential)), &blob, 0..1).await.unwrap();
    let requests = server.requests();
    let token = requests.iter().find(|request| request.path == "/token").unwrap();
    assert_eq!(token.method, "POST");
    assert!(!token.query.contains("secret"));
}

/// Gives the next credential each time it is asked.
#[derive(Debug)]
struct Sequence {
    credentials: Mutex<Vec<Option<Credential>>>,
    reasons: Mutex<Vec<CredentialsReason>>,
}

impl Sequence {
    fn new(credentials: Vec<Option<Credential>>) -> Arc<Self> {
        Arc::new(Self { credentials: Mutex::new(credentials), reasons: Mutex::default() })
    }
}

#[async_trait]
impl Credentials for Sequence {
    async fn credentials(
        &self,
        _host: &str,
        reason: CredentialsReason,
    ) -> Result<Option<Credential>, FetchError> {
        self.reasons.lock().unwrap().push(reason);
        let mut credentials = self.credentials.lock().unwrap();
        Ok(if credentials.len() > 1 { credentials.remove(0) } else { credentials[0].clone() })
    }
}

#[tokio::test]
async fn credentials_are_asked_for_again_when_they_stop_working() {
    use CredentialsReason::{Initial, Rejected};
    let stale = || Some(Credential::password("user", "stale"));
    for authorization in [bearer(Some(300)), Authorization::Basic { encoded: ENCODED.to_owned() }] {
        let server = RangeServer::start().await;
        let (blob, _) = add(&server, 100);
        server.set_authorization(authorization);
        let sequence = Sequence::new(vec![stale(), Some(password())]);
        let source = source_with(&server, options().with_credentials(sequence.clone()));
        read(&source, &blob, 0..1).await.unwrap();
        read(&source, &blob, 0..1).await.unwrap();
        assert_eq!(*sequence.reasons.lock().unwrap(), [Initial, Rejected]);
    }
}

#[tokio::test]
async fn refused_credentials_are_an_error_without_endless_requests() {
    for authorization in [bearer(Some(300)), Authorization::Basic { encoded: ENCODED.to_owned() }] {
        for credential in [None, Some(Credential::password("user", "secret-wrong"))] {
            let server = RangeServer::start().await;
            let (blob, _) = add(&server, 100);
            server.set_authorization(authorization.clone());
            let sequence = Sequence::new(vec![credential]);
            let source = source_with(&server, options().with_credentials(sequence));
            let error = read(&source, &blob, 0..1).await.unwrap_err();
            assert!(matches!(error, FetchError::Unauthorized { .. }), "{error}");
            assert!(!whole_text(&error).contains("secret"), "{error:?}");
            assert!(server.requests().len() <= 3, "{:?}", server.requests());
        }
    }
}

#[tokio::test]
async fn token_endpoints_are_retried_and_their_answers_limited() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    server.set_authorization(bearer(None));
    let count = Arc::new(Mutex::new(0));
    server.set_script(move |request| {
        let mut count = count.lock().unwrap();
        *count += usize::from(request.path == "/token");
        let is_first = request.path == "/token" && *count == 1;
        if is_first { vec![Fault::status(503)] } else { Vec::new() }
    });
    let source = source_with(&server, with_static(password()));
    read(&source, &blob, 0..1).await.unwrap();
    assert_eq!(token_request_count(&server), 2);
    assert_eq!(source.counters().token_requests, 2);
}

#[tokio::test]
async fn damaged_token_answers_are_asked_for_again() {
    // A bit of the first character, so that it is no JSON; one within the token.
    for bit in [0, 8 * 12 + 1] {
        let server = RangeServer::start().await;
        let (blob, _) = add(&server, 100);
        server.set_authorization(bearer(Some(300)));
        let is_first = Mutex::new(true);
        server.set_script(move |request| {
            let is_damaged =
                request.path == "/token" && std::mem::take(&mut *is_first.lock().unwrap());
            if is_damaged { vec![Fault::FlipBit { bit }] } else { Vec::new() }
        });
        read(&source_with(&server, with_static(password())), &blob, 0..1).await.unwrap();
        assert_eq!(token_request_count(&server), 2, "{bit}");
    }
}

#[tokio::test]
async fn a_realm_on_another_host_is_not_asked_over_plain_http() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    server.push_fault(Fault::Status {
        status: 401,
        headers: vec![(
            "WWW-Authenticate".to_owned(),
            "Bearer realm=\"http://auth.example/token\"".to_owned(),
        )],
    });
    let error = read(&source_with(&server, with_static(password())), &blob, 0..1).await;
    let error = error.unwrap_err();
    assert!(matches!(error, FetchError::PlainHttp { .. }), "{error}");
}

#[tokio::test]
async fn a_401_without_challenge_is_an_error() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    server.push_fault(Fault::status(401));
    let error = read(&source(&server), &blob, 0..1).await.unwrap_err();
    assert!(matches!(error, FetchError::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn secrets_are_not_in_debug_output() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 100);
    server.set_authorization(bearer(Some(300)));
    for credential in [password(), Credential::IdentityToken("secret-token".to_owned())] {
        assert!(!format!("{credential:?}").contains("secret"));
    }
    let source = source_with(&server, with_static(password()));
    read(&source, &blob, 0..1).await.unwrap();
    let text = format!("{source:?} {source:#?}");
    assert!(!text.contains("secret") && !text.contains(ENCODED), "{text}");
}

#[tokio::test]
async fn docker_configurations_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let credentials = DockerConfigCredentials::from_path(&path);
    let ask = |host: &'static str| credentials.credentials(host, CredentialsReason::Initial);
    assert_eq!(ask("r.io").await.unwrap(), None);
    let json = format!(
        r#"{{"auths":{{"r.io":{{"auth":"{ENCODED}"}},"t.io":{{"identitytoken":"t"}},
        "https://index.docker.io/v1/":{{"auth":"{ENCODED}"}},"b.io":{{"auth":"secret"}}}}}}"#
    );
    std::fs::write(&path, json).unwrap();
    assert_eq!(ask("r.io").await.unwrap(), Some(password()));
    assert_eq!(ask("t.io").await.unwrap(), Some(Credential::IdentityToken("t".to_owned())));
    assert_eq!(ask("registry-1.docker.io").await.unwrap(), Some(password()));
    assert_eq!(ask("other.io").await.unwrap(), None);
    let error = ask("b.io").await.unwrap_err();
    assert!(!whole_text(&error).contains("secret"), "{error:?}");
    std::fs::write(&path, "{").unwrap();
    assert!(matches!(ask("r.io").await, Err(FetchError::Credentials { .. })));
}
