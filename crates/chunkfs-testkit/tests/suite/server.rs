//! The test server itself.

use chunkfs_testkit::{Fault, RangeServer};

use crate::support::{ask, content, get};

#[tokio::test]
async fn the_server_can_claim_any_length_of_the_whole() {
    let server = RangeServer::start().await;
    let path = format!("/v2/repo/blobs/{}", server.add_blob("repo", content(10)));
    for (len, claimed) in [(None, "*"), (Some(41), "41")] {
        server.push_fault(Fault::ClaimedLen { len });
        let reply = ask(server.address(), &get(&path, Some("1-2"))).await;
        assert_eq!(reply.header("Content-Range"), Some(format!("bytes 1-2/{claimed}").as_str()));
        assert_eq!(reply.body, content(10)[1..3]);
    }
}
