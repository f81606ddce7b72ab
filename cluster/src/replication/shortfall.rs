//! The error of a verb that too few nodes could do. Pure.

use crate::{
    Error, NodeId,
    planted::{self, Bug},
    words::error::Shortfall,
};

/// The error of a verb for which too few nodes did their part.
pub(super) fn shortfall(
    doing: &'static str,
    needed: usize,
    got: usize,
    causes: Vec<(NodeId, Error)>,
) -> Error {
    // Nothing was stored anywhere, and each node said that it never will be
    // while it is full: that is an answer, not a doubt (promise P12).
    let full = |(_, error): &(NodeId, Error)| matches!(error, Error::Exhausted(_));
    let no_doubt = got == 0 && !causes.is_empty() && causes.iter().all(full);
    if no_doubt || planted::is(Bug::DoubtIsRefusal) && causes.iter().any(full) {
        return causes.into_iter().next().map_or_else(
            || Error::Internal("no cause".into()),
            |(node, error)| Error::Exhausted(format!("node {node}: {error}")),
        );
    }
    Error::NoQuorum(Shortfall {
        doing,
        needed,
        got,
        causes: causes
            .into_iter()
            .map(|(node, error)| (node, cause(&error)))
            .collect(),
    })
}

/// An error with its sources, for a shortfall that names the node itself.
fn cause(error: &Error) -> String {
    match error {
        Error::Unreachable { cause, .. } => cause.clone(),
        Error::Io { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_everywhere_is_an_answer_and_all_else_is_a_doubt() {
        let full = |id| (NodeId(id), Error::Exhausted("the volume is full".into()));
        let node = NodeId(9);
        let cause = "refused".to_owned();
        let away = (node, Error::Unreachable { node, cause });
        for (got, causes, told) in [
            (0, vec![full(1), full(2)], true),
            (1, vec![full(1), full(2)], false),
            (0, vec![full(1), away.clone()], false),
            (0, vec![], false),
        ] {
            let error = shortfall("write blob", 2, got, causes);
            assert_eq!(matches!(error, Error::Exhausted(_)), told, "{error}");
        }
        let text = shortfall("write blob", 2, 1, vec![away]).to_string();
        assert!(
            text.contains("1 of 2") && text.contains("0000000000000009: refused"),
            "{text}"
        );
    }
}
