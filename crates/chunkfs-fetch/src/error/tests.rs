use super::*;

#[test]
fn errors_are_small_enough_to_return_by_value() {
    assert!(size_of::<FetchError>() <= 88, "{}", size_of::<FetchError>());
}

#[test]
fn classes_do_not_overlap() {
    let status = |status| FetchError::Status { url: String::new(), status, detail: String::new() };
    for (error, retryable, corrupt) in [
        (status(503), true, false),
        (status(501), false, false),
        (FetchError::NotFound { what: String::new() }, false, false),
        (FetchError::NotConverted, false, false),
        (FetchError::InvalidManifest { problem: String::new() }, false, true),
    ] {
        assert_eq!((error.is_retryable(), error.is_corrupt()), (retryable, corrupt), "{error}");
    }
}

#[test]
fn status_details_are_optional() {
    let error = |detail: &str| FetchError::Status {
        url: "http://a/b".to_owned(),
        status: 400,
        detail: detail.to_owned(),
    };
    assert_eq!(error("").to_string(), "http://a/b answered with status 400");
    assert_eq!(error("X").to_string(), "http://a/b answered with status 400 (X)");
}
