//! What clients must present.

use crate::answer::Answer;
use crate::http::Request;

/// What a client must present. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authorization {
    /// Everyone may do everything.
    #[default]
    None,
    /// HTTP basic authentication.
    Basic {
        /// The value of the header after `Basic `: base64 of `user:password`.
        encoded: String,
    },
    /// Bearer tokens from the endpoint `/token` of this server.
    Bearer {
        /// The `expires_in` of the answer; it is left out if `None`.
        expires_in: Option<u64>,
        /// Basic credentials that the endpoint demands, encoded as above.
        encoded: Option<String>,
        /// The refresh token that the endpoint takes by POST.
        refresh_token: Option<String>,
    },
}

/// The tokens that were issued.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    issued: Vec<(String, String)>,
    issued_count: u64,
}

impl Tokens {
    pub(crate) fn expire(&mut self) {
        self.issued.clear();
    }

    /// Answers a request to the token endpoint.
    pub(crate) fn issue(&mut self, authorization: &Authorization, request: &Request) -> Answer {
        let Authorization::Bearer { expires_in, encoded, refresh_token } = authorization else {
            return Answer::new(404);
        };
        let is_known = match request.method.as_str() {
            "POST" => {
                request.form("grant_type").as_deref() == Some("refresh_token")
                    && request.form("refresh_token") == *refresh_token
            }
            _ => encoded.as_ref().is_none_or(|encoded| is_basic(request, encoded)),
        };
        if !is_known {
            return Answer::error(401, "UNAUTHORIZED");
        }
        self.issued_count += 1;
        let token = format!("secret-token-{}", self.issued_count);
        let scope = request.parameter("scope").or_else(|| request.form("scope"));
        self.issued.push((token.clone(), scope.unwrap_or_default()));
        let life = expires_in.map_or(String::new(), |life| format!(r#","expires_in":{life}"#));
        Answer::new(200).body(format!(r#"{{"token":"{token}"{life}}}"#))
    }

    /// Returns the refusal of a request, or `None` if it is authorized.
    pub(crate) fn refuse(
        &self,
        authorization: &Authorization,
        request: &Request,
        url: &str,
        repository: &str,
    ) -> Option<Answer> {
        let is_write = !matches!(request.method.as_str(), "GET" | "HEAD");
        match authorization {
            Authorization::None => None,
            Authorization::Basic { encoded } if is_basic(request, encoded) => None,
            Authorization::Basic { .. } => {
                let refusal = Answer::error(401, "UNAUTHORIZED");
                Some(refusal.header("WWW-Authenticate", "Basic realm=\"test\""))
            }
            Authorization::Bearer { .. } => {
                let presented = request.header("authorization").unwrap_or("");
                let presented = presented.strip_prefix("Bearer ").unwrap_or("");
                let scope = self.issued.iter().find(|(token, _)| token == presented);
                if scope.is_some_and(|(_, scope)| !is_write || scope.contains("push")) {
                    return None;
                }
                let actions = if is_write { "pull,push" } else { "pull" };
                let challenge = format!(
                    r#"Bearer realm="{url}/token",service="test",scope="repository:{repository}:{actions}""#
                );
                let refusal = Answer::error(401, "UNAUTHORIZED");
                Some(refusal.header("WWW-Authenticate", challenge))
            }
        }
    }
}

fn is_basic(request: &Request, encoded: &str) -> bool {
    let presented = request.header("authorization").unwrap_or("");
    presented.strip_prefix("Basic ") == Some(encoded)
}
