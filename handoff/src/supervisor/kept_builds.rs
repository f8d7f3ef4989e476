//! The builds that a rollback by hand can go to: those of the claims that are left.

use super::builds::recall;
use super::spawn::Build;
use crate::claim::{BuildDigest, Proposal};
use crate::ids::{Epoch, InstanceId};
use crate::os::builds::Builds;
use crate::os::claims::Claims;

/// So many are named in a message.
const NAMED: usize = 8;

/// The claims that are left, newest first. The newest says what serves, so it has to be readable; an older one that is not
/// is of no build that could be gone to.
fn tenures(claims: &Claims) -> Result<Vec<(Epoch, Proposal)>, String> {
    let mut tenures = Vec::new();
    for epoch in claims.claimed().map_err(|e| e.to_string())?.into_iter().rev() {
        match claims.read(epoch) {
            Ok(Some(claim)) => tenures.push((epoch, claim)),
            // tidied away meanwhile
            Ok(None) => {}
            Err(error) if tenures.is_empty() => return Err(error.to_string()),
            Err(error) => tracing::warn!(%epoch, %error, "a claim that cannot be read names no build"),
        }
    }
    Ok(tenures)
}

fn told((epoch, claim): &(Epoch, Proposal)) -> String {
    format!("epoch {epoch}: {}, {}", claim.build, claim.executable_text())
}

/// The newest tenure of each build.
fn list<'a>(tenures: impl IntoIterator<Item = &'a (Epoch, Proposal)>) -> String {
    let mut seen: Vec<BuildDigest> = Vec::new();
    let mut lines = Vec::new();
    for tenure in tenures {
        if !seen.contains(&tenure.1.build_digest) {
            seen.push(tenure.1.build_digest);
            lines.push(told(tenure));
        }
    }
    let more = if lines.len() > NAMED { "; .." } else { "" };
    lines.truncate(NAMED);
    format!("{}{more}", lines.join("; "))
}

/// What an operator calls a build by: an epoch, or what `status` and `history` show of an instance.
fn is_called(to: &str, (epoch, claim): &(Epoch, Proposal)) -> bool {
    match to.parse::<u64>() {
        Ok(number) => number == epoch.0,
        Err(_) => claim.build.0 == to || claim.executable_text() == to || claim.instance.to_string() == to,
    }
}

/// The build that an operator named. Blocks.
///
/// # Errors
/// No claim is called so, several builds are, it is the one that serves, or it is not kept any more.
pub(super) fn named(builds: &Builds, claims: &Claims, to: &str) -> Result<Build, String> {
    let tenures = tenures(claims)?;
    let current = tenures.first().map(|(_, claim)| claim.build_digest);
    let called: Vec<_> = tenures.iter().filter(|tenure| is_called(to, tenure)).collect();
    if called.is_empty() {
        let known = list(&tenures);
        return Err(format!(
            "no build is called {to:?}: give an epoch, or a build, path or instance as `status` and `history` show it; \
             the claims that are left know {known}"
        ));
    }
    let others: Vec<_> =
        called.iter().copied().filter(|(_, claim)| Some(claim.build_digest) != current).collect();
    let Some((_, newest)) = others.first() else {
        return Err(format!("{to:?} is the build that serves: there is nothing to go back to"));
    };
    if others.iter().any(|(_, claim)| claim.build_digest != newest.build_digest) {
        return Err(format!("several builds are called {to:?}: give one of the epochs; {}", list(others)));
    }
    let mut gone = None;
    for tenure in &others {
        match recall(builds, tenure.1.instance) {
            Ok(build) => return Ok(build),
            Err(why) => gone = gone.or(Some(format!("{} ({why})", told(tenure)))),
        }
    }
    Err(format!("it is not kept any more: {}; upgrade to it by --binary", gone.unwrap_or_default()))
}

/// The newest build that is kept and is not the one that serves. Blocks.
///
/// # Errors
/// There was no other one, or it is not kept any more.
pub(super) fn before(builds: &Builds, claims: &Claims, serving: Option<InstanceId>) -> Result<Build, String> {
    let mut epochs = claims.claimed().map_err(|e| e.to_string())?;
    let mut current = None;
    let mut gone = None;
    while let Some(epoch) = epochs.pop() {
        let Some(claim) = claims.read(epoch).map_err(|e| e.to_string())? else { continue };
        let Some(current) = current else {
            current = Some(claim.build_digest);
            continue;
        };
        let other = claim.build_digest != current && claim.build_digest != BuildDigest::UNKNOWN;
        if !other || Some(claim.instance) == serving {
            continue;
        }
        match recall(builds, claim.instance) {
            Ok(build) => return Ok(build),
            Err(why) => gone = gone.or(Some(format!("{} of epoch {epoch}: {why}", claim.executable_text()))),
        }
    }
    Err(match gone {
        Some(gone) => format!("the build before is not kept any more ({gone}): upgrade to it by --binary"),
        None => "there is nothing to go back to: no other build has served here, as far as the claims tell"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::ProposalName;

    // a claim that could not be read was passed over: with the newest one, the build that serves was another's
    #[test]
    fn who_serves_is_known_or_nobody_is_gone_to() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let claims = Claims::open(root.path()).expect("claims");
        for n in 1..=3 {
            let (me, name) = (InstanceId(u128::from(n)), ProposalName::Cold(InstanceId(u128::from(n))));
            claims.propose(name, &Proposal { instance: me, ..Proposal::default() }).expect("proposed");
            claims.claim(Epoch(n), name, me).expect("claimed");
        }
        let read = || tenures(&claims).map(|all| all.iter().map(|(epoch, _)| epoch.0).collect::<Vec<_>>());
        assert_eq!(read(), Ok(vec![3, 2, 1]));
        let names = claims.dir().list().expect("listed");
        let spoil = |epoch: &str| {
            let name = names.iter().find(|name| name.starts_with("epoch.") && name.ends_with(epoch));
            let path = claims.dir().join(name.expect("its claim"));
            std::fs::remove_file(&path).expect("removed");
            std::fs::write(path, b"garbage").expect("written");
        };
        spoil("2");
        assert_eq!(read(), Ok(vec![3, 1]));
        spoil("3");
        assert!(read().is_err(), "{:?}", read());
    }
}
