//! What an executor said, out of what Ballista makes of it: `Job … failed: … DataFusionError(Shared(
//! Execution("…")))`.

/// What Ballista says of a table that it cannot name to others.
const NOT_SENT: &str = "LogicalExtensionCodec is not provided";

/// The innermost message, and that it came from the cluster; none where there is nothing to unwrap.
pub(crate) fn said_by_executor(message: &str) -> Option<String> {
    if message.contains(NOT_SENT) {
        return Some(
            "a table of this query is known to this process alone, or of a kind that a cluster cannot read, \
             such as Delta; accepted: tables over files, by path or URL"
                .to_owned(),
        );
    }
    let (_, failed) = message.split_once("Job ")?;
    let (_, debugged) = failed.split_once("DataFusionError(")?;
    // What errors hold stands in one string, written as Rust's debug format does.
    let (_, quoted) = debugged.split_once('"')?;
    let said = unescaped(quoted)?;
    Some(format!("{said} (on the cluster)"))
}

/// The text up to the closing quote.
fn unescaped(quoted: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => text.push(match characters.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => {
                    let code: String = characters.by_ref().take_while(|c| *c != '}').collect();
                    let code = code.strip_prefix('{')?;
                    char::from_u32(u32::from_str_radix(code, 16).ok()?)?
                }
                other => other,
            }),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_message_is_found() {
        let wrapped = |error: &str| {
            format!(
                "Execution error: Job 038GD failed: Job failed due to stage 1 failed: Task failed due to \
                 runtime execution error: DataFusionError({error})\n"
            )
        };
        for (error, said) in [
            (
                r#"Shared(Execution("row 1: \"a\" is\n\u{e9}"))"#,
                "row 1: \"a\" is\n\u{e9}",
            ),
            (r#"Configuration("ches.model: x")"#, "ches.model: x"),
            (r#"Shared(External("out of memory"))"#, "out of memory"),
        ] {
            let said = format!("{said} (on the cluster)");
            assert_eq!(said_by_executor(&wrapped(error)), Some(said));
        }
        for other in [
            "Error during planning: no",
            "Job 1 failed: cancelled",
            &wrapped(r#"A("b"#),
        ] {
            assert_eq!(said_by_executor(other), None);
        }
    }
}
