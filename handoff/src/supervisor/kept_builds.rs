//! The builds that a rollback by hand can go to: those of the claims that are left.

use super::builds::recall;
use super::spawn::Build;
use crate::claim::{BuildDigest, Proposal};
use crate::ids::{Epoch, InstanceId};
use crate::os::builds::Builds;
use crate::os::claims::Claims;

/// So many are named in a message.
const NAMED: usize = 8;

/// The claims that are left, newest first. One that cannot be read is of no build that could be gone to.
fn tenures(claims: &Claims) -> Result<Vec<(Epoch, Proposal)>, String> {
    let epochs = claims.claimed().map_err(|e| e.to_string())?;
    let read = |epoch: Epoch| Some((epoch, claims.read(epoch).ok().flatten()?));
    Ok(epochs.into_iter().rev().filter_map(read).collect())
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
