//! The protocol: which answer belongs to which request.

use crate::answer::Answer;
use crate::fault::Fault;
use crate::http::Request;
use crate::server::State;

/// Answers a request; `faults` are those that concern ranges and bodies.
pub(crate) fn answer(state: &State, request: &Request, faults: &[Fault]) -> Answer {
    if request.path == "/token" {
        let authorization = state.authorization();
        return state.tokens().issue(&authorization, request);
    }
    if let Some(rest) = request.path.strip_prefix("/storage/") {
        return storage(state, request, rest, faults);
    }
    if let Some(rest) = request.path.strip_prefix("/hop/") {
        return hop(request, rest);
    }
    if request.path.starts_with("/files/") {
        return file(state, request, faults);
    }
    let Some(path) = request.path.strip_prefix("/v2/") else {
        return Answer::new(404);
    };
    let repository = ["/blobs/", "/manifests/"].iter().find_map(|kind| path.split_once(kind));
    let repository = repository.map_or("", |(repository, _)| repository);
    let authorization = state.authorization();
    let refusal = state.tokens().refuse(&authorization, request, state.url(), repository);
    if let Some(refusal) = refusal {
        return refusal;
    }
    if path.is_empty() {
        return Answer::new(200);
    }
    if let Some((repository, reference)) = path.split_once("/manifests/") {
        return manifest(state, request, repository, reference);
    }
    match path.split_once("/blobs/") {
        Some((repository, rest)) if rest.starts_with("uploads/") => {
            upload(state, request, repository)
        }
        Some((repository, digest)) => blob(state, request, (repository, digest), faults),
        None => Answer::new(404),
    }
}

fn blob(state: &State, request: &Request, name: (&str, &str), faults: &[Fault]) -> Answer {
    let (repository, digest) = name;
    let content = digest.parse().ok().and_then(|id| state.content().blob(repository, id));
    let Some(content) = content else {
        return Answer::error(404, "BLOB_UNKNOWN");
    };
    if let Some(location) = state.redirect_location(digest, &content) {
        return Answer::new(307).header("Location", location);
    }
    match request.method.as_str() {
        "GET" => Answer::content(&content, request.byte_range(), faults)
            .header("Docker-Content-Digest", digest)
            .header("Accept-Ranges", "bytes"),
        "HEAD" => Answer::new(200).header("Content-Length", content.len().to_string()),
        _ => Answer::new(405),
    }
}

fn manifest(state: &State, request: &Request, repository: &str, reference: &str) -> Answer {
    if request.method == "PUT" {
        let media_type = request.header("content-type").unwrap_or("application/octet-stream");
        let bytes = request.body.clone().into();
        let id = state.content().add_manifest(repository, reference, media_type, bytes);
        return Answer::new(201).header("Docker-Content-Digest", id.to_string());
    }
    match state.content().manifest(repository, reference) {
        None => Answer::error(404, "MANIFEST_UNKNOWN"),
        Some((media_type, bytes)) => Answer::new(200)
            .header("Content-Type", media_type)
            .header("Docker-Content-Digest", chunkfs_format::BlobId::of(&bytes).to_string())
            .body(bytes),
    }
}

fn upload(state: &State, request: &Request, repository: &str) -> Answer {
    let uploads = format!("/v2/{repository}/blobs/uploads/");
    match request.method.as_str() {
        "POST" => {
            let mount = request.parameter("mount").and_then(|digest| digest.parse().ok());
            let from = request.parameter("from");
            if let Some((id, from)) = mount.zip(from) {
                let content = state.content().blob(&from, id);
                if let Some(content) = content {
                    state.content().add_blob(repository, content);
                    return Answer::new(201);
                }
            }
            Answer::new(202).header("Location", format!("{uploads}1?_state=secret-state"))
        }
        "PUT" => {
            let is_session = request.parameter("_state").as_deref() == Some("secret-state");
            let expected = request.parameter("digest");
            let bytes = bytes::Bytes::from(request.body.clone());
            let actual = chunkfs_format::BlobId::of(&bytes).to_string();
            if !is_session {
                Answer::error(404, "BLOB_UPLOAD_UNKNOWN")
            } else if expected != Some(actual) {
                Answer::error(400, "DIGEST_INVALID")
            } else {
                state.content().add_blob(repository, bytes);
                Answer::new(201)
            }
        }
        _ => Answer::new(405),
    }
}

/// A web server that takes uploads, with entity tags that say what a file holds.
fn file(state: &State, request: &Request, faults: &[Fault]) -> Answer {
    let authorization = state.authorization();
    let refusal = state.tokens().refuse(&authorization, request, state.url(), "");
    if let Some(refusal) = refusal {
        return refusal;
    }
    let mut content = state.content();
    let present = content.file(&request.path);
    let e_tag =
        |bytes: &bytes::Bytes| format!("\"{}\"", chunkfs_format::BlobId::of(bytes).to_hex());
    match (request.method.as_str(), present) {
        ("GET", Some(bytes)) => {
            Answer::content(&bytes, request.byte_range(), faults).header("ETag", e_tag(&bytes))
        }
        ("HEAD", Some(bytes)) => Answer::new(200).header("Content-Length", bytes.len().to_string()),
        ("GET" | "HEAD", None) => Answer::new(404),
        ("PUT", present) => {
            let is_new = request.header("if-none-match") == Some("*");
            let expected = request.header("if-match");
            let present = present.as_ref().map(e_tag);
            if (is_new && present.is_some())
                || (expected.is_some() && expected != present.as_deref())
            {
                return Answer::new(412);
            }
            content.add_file(&request.path, request.body.clone().into());
            Answer::new(if present.is_some() { 204 } else { 201 })
        }
        _ => Answer::new(405),
    }
}

/// Storage behind signed URLs: like S3 it refuses an `Authorization` header and any HEAD.
fn storage(state: &State, request: &Request, digest: &str, faults: &[Fault]) -> Answer {
    if request.header("authorization").is_some() {
        return Answer::error(400, "InvalidArgument");
    }
    let signature = request.parameter("X-Signature").unwrap_or_default();
    let content = match request.method.as_str() {
        "GET" => state.content().signed(&signature),
        _ => None,
    };
    match content {
        Some(content) => Answer::content(&content, request.byte_range(), faults)
            .header("ETag", format!("\"storage-{}\"", digest.len())),
        None => Answer::error(403, "AccessDenied"),
    }
}

/// One more redirect on the way to the storage, relative to this server.
fn hop(request: &Request, rest: &str) -> Answer {
    let (count, path) = rest.split_once('/').unwrap_or(("0", ""));
    let location = match count.parse::<u32>() {
        Ok(count) if count > 1 => format!("/hop/{}/{path}?{}", count - 1, request.query),
        _ => format!("/{path}?{}", request.query),
    };
    Answer::new(302).header("Location", location)
}
