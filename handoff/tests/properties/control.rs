//! A line on the operator socket: a request, or an error and nothing else.

use handoff::supervisor::Canary;
use handoff::supervisor::protocol::{CanaryRequest, Reply, Request};

pub(crate) fn check(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(request) = Request::read(line) {
            let said = serde_json::to_vec(&request).expect("what was read can be said");
            assert_eq!(Request::read(&said).as_ref(), Ok(&request), "{}", said.escape_ascii());
            if let Request::Upgrade { canary: Some(canary), .. } = request {
                answers(canary);
            }
        } else if let Err(why) = Request::read(line) {
            assert!(why.len() < 1000 && !why.contains(char::is_control), "{why:?}");
        }
        if let Ok(reply) = serde_json::from_slice::<Reply>(line) {
            let said = serde_json::to_vec(&reply).expect("what was read can be said");
            serde_json::from_slice::<Reply>(&said).expect("what was said can be read");
        }
        if let Ok(text) = str::from_utf8(line) {
            drop(text.parse::<Canary>());
        }
    }
}

fn answers(canary: CanaryRequest) {
    drop(canary.parse());
}
