//! One request to a token endpoint.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::Deserialize;

use super::body::{Body, stalled};
use super::client::transport_error;
use super::counters::{Count, Counters};
use super::credentials::Credential;
use super::origin::redacted;
use crate::error::FetchError;

/// The largest answer of a token endpoint that is read.
const TOKEN_ANSWER_LEN_MAX: u64 = 1 << 20;
/// The life of a token whose answer does not say; from the distribution token specification.
const LIFE_DEFAULT: Duration = Duration::from_secs(60);
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
const CLIENT_ID: &str = "chunkfs";

/// What a token is asked for.
#[derive(Debug)]
pub(super) struct TokenRequest<'a> {
    pub(super) realm: Url,
    pub(super) service: Option<&'a str>,
    pub(super) scope: &'a str,
    pub(super) credential: Option<&'a Credential>,
}

/// A token as the value of an `Authorization` header, and how long it may be used.
pub(super) struct Token {
    pub(super) value: HeaderValue,
    pub(super) life: Duration,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl TokenRequest<'_> {
    /// Sends the request once.
    ///
    /// # Errors
    /// [`FetchError::Unauthorized`] if the endpoint refuses the credential.
    pub(super) async fn send(
        &self,
        client: &Client,
        progress_timeout: Duration,
        counters: &Counters,
    ) -> Result<Token, FetchError> {
        counters.token_requests.add(1);
        let sent = self.build(client)?.send();
        let response = match tokio::time::timeout(progress_timeout, sent).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(transport_error(&self.realm, error)),
            Err(_) => return Err(stalled(&self.realm, progress_timeout)),
        };
        let body = Body::new(response, self.realm.clone(), progress_timeout);
        match body.status() {
            StatusCode::OK => {}
            // Bodies of token endpoints are not shown: they may repeat what they were sent.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let host = super::origin::host_of(&self.realm);
                let detail = "the token endpoint refused".to_owned();
                return Err(FetchError::Unauthorized { host, detail });
            }
            status => {
                let (url, status) = (redacted(&self.realm), status.as_u16());
                return Err(FetchError::Status { url, status, detail: String::new() });
            }
        }
        let bytes = body.read_limited(TOKEN_ANSWER_LEN_MAX, &Count::default()).await?;
        parse(&bytes).map_err(|problem| FetchError::Protocol {
            url: redacted(&self.realm),
            problem: problem.to_owned(),
        })
    }

    fn build(&self, client: &Client) -> Result<RequestBuilder, FetchError> {
        if let Some(Credential::IdentityToken(token)) = self.credential {
            let mut form = form_urlencoded(&[
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("scope", self.scope),
                ("refresh_token", token),
            ]);
            if let Some(service) = self.service {
                form += &format!("&{}", form_urlencoded(&[("service", service)]));
            }
            let request = client.post(self.realm.clone()).body(form);
            return Ok(request.header(CONTENT_TYPE, "application/x-www-form-urlencoded"));
        }
        let mut url = self.realm.clone();
        let mut query = url.query_pairs_mut();
        if let Some(service) = self.service {
            query.append_pair("service", service);
        }
        // Several scopes are several parameters, as docker sends them.
        for scope in self.scope.split(' ').filter(|scope| !scope.is_empty()) {
            query.append_pair("scope", scope);
        }
        if self.credential.is_some() {
            query.append_pair("account", CLIENT_ID);
        }
        drop(query);
        let request = client.get(url);
        Ok(match self.credential {
            Some(Credential::Password { username, password }) => {
                request.header(AUTHORIZATION, basic(username, password))
            }
            _ => request,
        })
    }
}

/// Returns the header value for basic authentication.
pub(super) fn basic(username: &str, password: &str) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{username}:{password}"));
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}"))
        .expect("base64 holds nothing that a header cannot");
    value.set_sensitive(true);
    value
}

fn parse(bytes: &[u8]) -> Result<Token, &'static str> {
    let answer: Answer =
        serde_json::from_slice(bytes).map_err(|_| "the token answer is not the expected JSON")?;
    let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token);
    let token = token.filter(|token| !token.is_empty()).ok_or("it holds no token")?;
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| "the token cannot be sent in a header")?;
    value.set_sensitive(true);
    let life = match answer.expires_in {
        None | Some(0) => jwt_life(&token).unwrap_or(LIFE_DEFAULT),
        Some(seconds) => Duration::from_secs(seconds),
    };
    Ok(Token { value, life: life.min(LIFE_MAX) })
}

#[derive(Deserialize)]
struct Claims {
    exp: u64,
    iat: u64,
}

/// Returns for how long a JSON web token was issued; the clocks of two machines are not compared.
///
/// Its signature is the registry's business: a wrong life only means a wrong time of renewal.
fn jwt_life(token: &str) -> Option<Duration> {
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let Claims { exp, iat } = serde_json::from_slice(&claims).ok()?;
    exp.checked_sub(iat).filter(|life| *life > 0).map(Duration::from_secs)
}

fn form_urlencoded(pairs: &[(&str, &str)]) -> String {
    // A URL's query has the same encoding as a form, and the type is already here.
    let mut url = Url::parse("http://form/").expect("it is a URL");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed() {
        let token = |json: &str| {
            let token = parse(json.as_bytes())?;
            assert!(token.value.is_sensitive());
            Ok::<_, &str>((token.value.to_str().unwrap().to_owned(), token.life.as_secs()))
        };
        assert_eq!(token(r#"{"token":"a","expires_in":300}"#), Ok(("Bearer a".to_owned(), 300)));
        assert_eq!(token(r#"{"access_token":"b"}"#), Ok(("Bearer b".to_owned(), 60)));
        assert_eq!(token(r#"{"token":"","access_token":"b"}"#), Ok(("Bearer b".to_owned(), 60)));
        let forever = format!(r#"{{"token":"a","expires_in":{}}}"#, u64::MAX);
        assert_eq!(token(&forever), Ok(("Bearer a".to_owned(), 86_400)));
        let jwt = |claims: &str| {
            let claims = URL_SAFE_NO_PAD.encode(claims);
            token(&format!(r#"{{"token":"a.{claims}.c"}}"#)).map(|(_, life)| life)
        };
        assert_eq!(jwt(r#"{"iat":1700000000,"exp":1700000005,"sub":"x"}"#), Ok(5));
        for odd in ["", "{}", r#"{"exp":5}"#, r#"{"iat":5,"exp":5}"#, r#"{"iat":5,"exp":4}"#] {
            assert_eq!(jwt(odd), Ok(60), "{odd}");
        }
        for bad in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, r#"{"token":1}"#] {
            assert!(token(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(form_urlencoded(&[("a", "b c&d"), ("e", "/:")]), "a=b+c%26d&e=%2F%3A");
    }
}
