//! What a 401 answer demands.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// The length of challenges that are looked at; real ones have some 200 bytes.
const CHALLENGE_LEN_MAX: usize = 8 << 10;

/// A demand for authorization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password in each request.
    Basic,
    /// A token from another endpoint.
    Bearer(BearerChallenge),
}

/// Where and for what to get a token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct BearerChallenge {
    /// The URL of the token endpoint.
    pub(super) realm: String,
    pub(super) service: Option<String>,
    pub(super) scope: Option<String>,
    /// Why the presented token is not accepted, for example `insufficient_scope`.
    pub(super) error: Option<String>,
}

impl Challenge {
    /// Returns the best challenge in the headers of an answer: bearer before basic.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter();
        let texts = texts.filter_map(|value| value.to_str().ok());
        let challenges: Vec<Self> =
            texts.filter(|text| text.len() <= CHALLENGE_LEN_MAX).flat_map(parse).collect();
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Self::Bearer(_)));
        bearer.or(challenges.first()).cloned()
    }

    /// Returns the reason given for the refusal, for error messages.
    pub(super) fn error(&self) -> Option<&str> {
        match self {
            Self::Basic => None,
            Self::Bearer(bearer) => bearer.error.as_deref(),
        }
    }
}

fn parse(text: &str) -> Vec<Challenge> {
    let Ok(challenges) = http_auth::parse_challenges(text) else {
        return Vec::new();
    };
    let mut parsed = Vec::new();
    for challenge in challenges {
        let parameter = |name: &str| {
            let mut parameters = challenge.params.iter();
            let found = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
        };
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            parsed.push(Challenge::Basic);
        } else if challenge.scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = parameter("realm")
        {
            parsed.push(Challenge::Bearer(BearerChallenge {
                realm,
                service: parameter("service"),
                scope: parameter("scope"),
                error: parameter("error"),
            }));
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(texts: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(WWW_AUTHENTICATE, text.parse().unwrap());
        }
        Challenge::from_headers(&headers)
    }

    #[test]
    fn bearer_challenges_are_parsed_and_preferred() {
        let text = r#"Bearer realm="https://a.io/token?x=1",service="r.io",scope="repository:a/b:pull,push",error="invalid_token""#;
        let expected = Challenge::Bearer(BearerChallenge {
            realm: "https://a.io/token?x=1".to_owned(),
            service: Some("r.io".to_owned()),
            scope: Some("repository:a/b:pull,push".to_owned()),
            error: Some("invalid_token".to_owned()),
        });
        assert_eq!(best(&[text]), Some(expected.clone()));
        assert_eq!(best(&["Basic realm=\"x\"", text]), Some(expected.clone()));
        assert_eq!(best(&[&format!("Basic realm=\"x\", {text}")]), Some(expected));
    }

    #[test]
    fn other_challenges_are_ignored() {
        assert_eq!(best(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        assert_eq!(best(&["Digest realm=\"x\"", "Basic realm=\"x\""]), Some(Challenge::Basic));
        for text in ["", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"", ",,,"] {
            assert_eq!(best(&[text]), None, "{text}");
        }
        let long = format!("Bearer realm=\"{}\"", "x".repeat(CHALLENGE_LEN_MAX));
        assert_eq!(best(&[&long]), None);
    }
}
