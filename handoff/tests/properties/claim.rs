//! What lies beside the claims: names of files, and the descriptions of builds.

use crate::proposal::sealed;
use handoff::claim::{BuildDigest, FileName, KeptSpec};
use handoff::ids::{HandoffId, InstanceId, ListenerName};

pub(crate) fn check(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        for line in text.split('\n') {
            has_one_spelling(line);
        }
    }
    for bytes in [data, &sealed(*b"HANDSPEC", data)] {
        if let Ok(spec) = KeptSpec::decode(bytes) {
            assert_eq!(spec.encode().as_deref(), Ok(bytes), "{spec:?}");
        }
    }
}

fn has_one_spelling(text: &str) {
    if let Some(name) = FileName::parse(text) {
        assert_eq!(name.to_string(), text);
    }
    if let Some(digest) = BuildDigest::parse(text) {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(name) = ListenerName::new(text) {
        assert_eq!(name.to_string(), text);
    }
    // an id may be written in other ways; how it is shown is read as the same
    if let Some(id) = InstanceId::parse(text) {
        assert_eq!(InstanceId::parse(&id.to_string()), Some(id));
    }
    if let Some(id) = HandoffId::parse(text) {
        assert_eq!(HandoffId::parse(&id.to_string()), Some(id));
    }
}
