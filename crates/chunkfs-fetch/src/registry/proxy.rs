//! HTTP proxies, by the names of the usual environment variables.

use reqwest::{NoProxy, Proxy};

use crate::error::FetchError;

/// Hosts that are never behind a proxy: this machine, and what answers for the metadata of an instance.
const DIRECT: &str =
    "localhost,127.0.0.0/8,::1,169.254.0.0/16,fd00:ec2::/32,metadata.google.internal";

type Make = fn(String) -> reqwest::Result<Proxy>;

/// Returns the proxies that settings name: `HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY`, except for the
/// hosts in `NO_PROXY`; in any case, other names are ignored.
///
/// # Errors
/// [`FetchError::Store`] if the value of one is no URL; the message does not show it.
pub(super) fn proxies(settings: &[(String, String)]) -> Result<Vec<Proxy>, FetchError> {
    let find = |name: &str| {
        let mut found = settings.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next_back().map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    let direct = format!("{DIRECT},{}", find("NO_PROXY").unwrap_or(""));
    let kinds: [(&str, Make); 3] = [
        ("HTTPS_PROXY", Proxy::https::<String>),
        ("HTTP_PROXY", Proxy::http::<String>),
        // The last, so that it is for what the others leave.
        ("ALL_PROXY", Proxy::all::<String>),
    ];
    let named = kinds.iter().filter_map(|(name, make)| Some((name, make, find(name)?)));
    named
        .map(|(name, make, url)| match make(url.to_owned()) {
            Ok(proxy) => Ok(proxy.no_proxy(NoProxy::from_string(&direct))),
            Err(_) => Err(FetchError::Store {
                place: format!("the proxy in {name}"),
                problem: "it is not a URL such as http://proxy.example:3128".to_owned(),
            }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_usual_names_count_and_no_others() {
        let count = |pairs: &[(&str, &str)]| proxies(&settings(pairs)).unwrap().len();
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[("NO_PROXY", "a"), ("AWS_PROXY", "http://p:1")]), 0);
        assert_eq!(count(&[("https_proxy", "http://p:1"), ("HTTP_PROXY", "p:1")]), 2);
        assert_eq!(count(&[("HTTPS_PROXY", "http://p:1"), ("HTTPS_PROXY", "")]), 0);
    }

    #[test]
    fn what_is_no_url_is_an_error_without_its_text() {
        let error = proxies(&settings(&[("ALL_PROXY", "http://user:secret@[")])).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains("ALL_PROXY") && !text.contains("secret"), "{text}");
    }
}
