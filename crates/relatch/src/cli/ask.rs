//! Finding the keepers and the upstream that was asked for; the answers when there are none.

use std::collections::BTreeSet;

use relatch_admin::Status;
use relatch_admin::link::{KeeperLink, LinkError, all_keepers, status_of_all};
use relatch_admin::runtime::runtime_dir;

use crate::exit;
use crate::render::Failure;

/// The status of every keeper of this user.
pub(crate) async fn status() -> Result<Status, Failure> {
    let dir = runtime_dir();
    let status = status_of_all(&dir).await.map_err(|cause| unreadable(&dir, &cause))?;
    if status.keepers.is_empty() && status.unanswered.is_empty() {
        return Err(no_keeper());
    }
    Ok(status)
}

/// Every keeper of this user, at least one.
pub(crate) async fn keepers() -> Result<Vec<KeeperLink>, Failure> {
    let dir = runtime_dir();
    let keepers = all_keepers(&dir).await.map_err(|cause| unreadable(&dir, &cause))?;
    if keepers.is_empty() { Err(no_keeper()) } else { Ok(keepers) }
}

/// Asks every keeper of this user at the same time for something that it does to `name`, or to every upstream. What each
/// says, by its process; at least one has an upstream of that name.
pub(crate) async fn each<T, F>(
    name: Option<&str>,
    ask: impl Fn(KeeperLink) -> F,
) -> Result<Vec<(u32, Vec<T>)>, Failure>
where
    F: Future<Output = Result<Vec<T>, LinkError>> + Send + 'static,
    T: Send + 'static,
{
    let mut asked = tokio::task::JoinSet::new();
    for keeper in keepers().await? {
        let (pid, answer) = (keeper.pid, ask(keeper));
        asked.spawn(async move { (pid, answer.await) });
    }
    let (mut all, mut troubles) = (Vec::new(), Vec::new());
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((pid, Ok(outcomes))) => all.push((pid, outcomes)),
            Ok((_, Err(trouble))) => troubles.push(trouble.to_string()),
            Err(broken) => troubles.push(broken.to_string()),
        }
    }
    all.sort_by_key(|(pid, _)| *pid);
    if !troubles.is_empty() {
        let mut failure = Failure::new("Not every keeper did what it was asked for").exit(exit::NO);
        failure.causes = troubles;
        return Err(failure);
    }
    match name {
        Some(name) if all.iter().all(|(_, outcomes)| outcomes.is_empty()) => {
            Err(unknown_name(name, &status().await?))
        }
        Some(_) | None => Ok(all),
    }
}

/// That no upstream has this name, and which names there are.
pub(crate) fn unknown_name(name: &str, status: &Status) -> Failure {
    let known: BTreeSet<&str> =
        status.keepers.iter().flat_map(|keeper| &keeper.servers).map(|server| server.name.as_str()).collect();
    let mut failure = unknown_among(name, &known);
    if !status.unanswered.is_empty() {
        // It may be one of theirs.
        failure.what = format!("No keeper that answers has a server called `{name}`");
        failure.causes = status.unanswered.iter().map(|keeper| keeper.cause.clone()).collect();
        failure.exit = exit::NO;
    }
    failure
}

/// The same, of these names.
pub(crate) fn unknown_among(name: &str, known: &BTreeSet<&str>) -> Failure {
    let failure = Failure::usage(format!("No keeper has a server called `{name}`"));
    if known.is_empty() {
        return failure.hint("Run `relatch status` to see which keepers run");
    }
    let known: Vec<&str> = known.iter().copied().collect();
    failure.hint(format!("The known ones are `{}`", known.join("`, `")))
}

pub(crate) fn no_keeper() -> Failure {
    Failure::new("No keeper of this user runs")
        .hint("Start one with `relatch serve NAME=URL`, or let a client start `relatch stdio URL`")
        .exit(exit::NO_KEEPER)
}

pub(crate) fn unreadable(dir: &std::path::Path, cause: &std::io::Error) -> Failure {
    Failure::new(format!("The folder of keepers, `{}`, can't be read", dir.display()))
        .cause(cause)
        .exit(exit::REFUSED)
}
