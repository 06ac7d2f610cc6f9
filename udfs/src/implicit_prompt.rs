//! The two-argument form: finding the prompt that `chosen` and `rejected` share.

use crate::preference_pair::PreferencePair;
use crate::template_variables::TemplateVariables;
use crate::text::{ASSISTANT, Text, Turn, USER};

const HUMAN_MARK: &str = "\n\nHuman:";
const ASSISTANT_MARK: &str = "\n\nAssistant:";

/// Splits two texts that each repeat their prompt into that prompt and the two responses.
///
/// Conversations are split by [`split_turns`], strings by [`split_transcripts`].
pub(crate) fn split(chosen: Text, rejected: Text) -> Result<PreferencePair, String> {
    match (chosen, rejected) {
        (Text::Turns(chosen), Text::Turns(rejected)) => split_turns(chosen, rejected),
        (Text::Plain(chosen), Text::Plain(rejected)) => split_transcripts(&chosen, &rejected),
        _ => Err(
            "one side is a string and the other a conversation; without a prompt \
                  argument both must be of one kind"
                .into(),
        ),
    }
}

/// The prompt is the shared first turns, cut back so that each side keeps at least one turn
/// and its first own turn is the assistant's.
fn split_turns(mut chosen: Vec<Turn>, mut rejected: Vec<Turn>) -> Result<PreferencePair, String> {
    if chosen.is_empty() || rejected.is_empty() {
        // An empty response has no score; the other one's last answer is left to it.
        let last_answer = |turns: &[Turn]| turns.iter().rposition(Turn::is_assistant);
        let longer = if chosen.is_empty() {
            &mut rejected
        } else {
            &mut chosen
        };
        let prompt = longer.drain(..last_answer(longer).unwrap_or(longer.len()));
        return Ok(PreferencePair {
            prompt: Text::Turns(prompt.collect()),
            chosen: Text::Turns(chosen),
            rejected: Text::Turns(rejected),
            variables: TemplateVariables::new(),
        });
    }
    let mut shared = chosen
        .iter()
        .zip(&rejected)
        .take_while(|(c, r)| c == r)
        .count();
    if let (Some(c), Some(r)) = (chosen.get(shared), rejected.get(shared))
        && (c.role == USER || r.role == USER)
    {
        return Err(format!(
            "the two conversations first differ in turn {}, where a user turn stands; a pair \
             must answer the same prompt",
            shared + 1
        ));
    }
    let first_own_is_assistant =
        |at: usize| chosen[at].is_assistant() && rejected[at].is_assistant();
    shared = shared.min(chosen.len() - 1).min(rejected.len() - 1);
    while !first_own_is_assistant(shared) {
        if shared == 0 {
            return Err(
                "the two conversations share no beginning that ends before an assistant turn"
                    .into(),
            );
        }
        shared -= 1;
    }
    rejected.drain(..shared);
    let prompt = chosen.drain(..shared).collect();
    Ok(PreferencePair {
        prompt: Text::Turns(prompt),
        chosen: Text::Turns(chosen),
        rejected: Text::Turns(rejected),
        variables: TemplateVariables::new(),
    })
}

/// The prompt goes up to and including the last `\n\nAssistant:` of the shared beginning.
fn split_transcripts(chosen: &str, rejected: &str) -> Result<PreferencePair, String> {
    let shared: usize = chosen
        .chars()
        .zip(rejected.chars())
        .take_while(|(c, r)| c == r)
        .map(|(c, _)| c.len_utf8())
        .sum();
    let Some(mark) = chosen[..shared].rfind(ASSISTANT_MARK) else {
        return Err(
            "the two strings share no beginning that holds '\\n\\nAssistant:'; without a \
             prompt argument, strings must be '\\n\\nHuman: … \\n\\nAssistant: …' transcripts"
                .into(),
        );
    };
    let (prompt, own_chosen) = chosen.split_at(mark + ASSISTANT_MARK.len());
    let own_rejected = &rejected[prompt.len()..];
    Ok(PreferencePair {
        prompt: Text::Transcript(prompt.into()),
        chosen: Text::Transcript(own_chosen.into()),
        rejected: Text::Transcript(own_rejected.into()),
        variables: TemplateVariables::new(),
    })
}

/// Reads the turns of a raw transcript, contents trimmed: Human is the user, Assistant the
/// assistant.
///
/// A prompt begins with a mark; one at its very start may lack its line breaks, as in a
/// transcript that was trimmed. A response begins with the content of the prompt's last mark,
/// which is a turn of `first_role`. A last turn without content, the mark that the response
/// follows, is left out.
///
/// # Errors
/// When there is text before a prompt's first mark.
pub fn transcript_turns(text: &str, first_role: Option<&str>) -> Result<Vec<Turn>, String> {
    const MARKS: [(&str, &str); 2] = [(HUMAN_MARK, USER), (ASSISTANT_MARK, ASSISTANT)];
    let mut turns = Vec::new();
    let (mut role, rest) = match first_role {
        Some(role) => (role, text),
        None => MARKS
            .into_iter()
            .find_map(|(mark, role)| Some((role, text.trim_start().strip_prefix(mark.trim())?)))
            .ok_or("the transcript does not begin with '\\n\\nHuman:' or '\\n\\nAssistant:'")?,
    };
    let mut marks = MARKS.map(|(mark, role)| (rest.match_indices(mark).peekable(), role));
    let mut begin = 0;
    loop {
        let places = marks
            .iter_mut()
            .enumerate()
            .filter_map(|(which, (places, _))| Some((places.peek()?.0, which)));
        let next = places.min();
        let content = rest[begin..next.map_or(rest.len(), |(at, _)| at)].trim();
        let is_response = first_role.is_some() && turns.is_empty();
        if is_response || next.is_some() || !content.is_empty() {
            turns.push(Turn::new(role, content));
        }
        let Some((at, which)) = next else {
            return Ok(turns);
        };
        let (places, next_role) = &mut marks[which];
        places.next();
        role = next_role;
        begin = at + MARKS[which].0.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(turns: &[(&str, &str)]) -> Text {
        Text::Turns(
            turns
                .iter()
                .map(|(role, content)| Turn::new(*role, *content))
                .collect(),
        )
    }

    fn pair(prompt: Text, chosen: Text, rejected: Text) -> Result<PreferencePair, String> {
        Ok(PreferencePair {
            prompt,
            chosen,
            rejected,
            variables: TemplateVariables::new(),
        })
    }

    #[test]
    fn shared_first_turns_are_the_prompt() {
        assert_eq!(
            split(
                conversation(&[("user", "q"), ("assistant", "a")]),
                conversation(&[("user", "q"), ("assistant", "b")]),
            ),
            pair(
                conversation(&[("user", "q")]),
                conversation(&[("assistant", "a")]),
                conversation(&[("assistant", "b")]),
            )
        );
    }

    #[test]
    fn identical_conversations_keep_the_last_answer() {
        let whole = [
            ("user", "q"),
            ("assistant", "a"),
            ("user", "r"),
            ("assistant", "b"),
        ];
        assert_eq!(
            split(conversation(&whole), conversation(&whole)),
            pair(
                conversation(&whole[..3]),
                conversation(&whole[3..]),
                conversation(&whole[3..]),
            )
        );
    }

    #[test]
    fn one_side_a_prefix_of_the_other() {
        let long = [
            ("user", "q"),
            ("assistant", "a"),
            ("user", "r"),
            ("assistant", "b"),
        ];
        assert_eq!(
            split(conversation(&long[..2]), conversation(&long)),
            pair(
                conversation(&long[..1]),
                conversation(&long[1..2]),
                conversation(&long[1..]),
            )
        );
    }

    #[test]
    fn a_shared_tool_call_stays_with_the_response() {
        assert_eq!(
            split(
                conversation(&[("user", "q"), ("assistant", "call"), ("tool", "1")]),
                conversation(&[("user", "q"), ("assistant", "call"), ("tool", "2")]),
            ),
            pair(
                conversation(&[("user", "q")]),
                conversation(&[("assistant", "call"), ("tool", "1")]),
                conversation(&[("assistant", "call"), ("tool", "2")]),
            )
        );
    }

    #[test]
    fn a_different_question_is_no_pair() {
        let error = split(
            conversation(&[("user", "q"), ("assistant", "a")]),
            conversation(&[("user", "p"), ("assistant", "a")]),
        );
        assert!(
            error
                .unwrap_err()
                .contains("turn 1, where a user turn stands")
        );
        let error = split(
            conversation(&[("system", "s"), ("user", "q"), ("assistant", "a")]),
            conversation(&[("system", "t"), ("user", "q"), ("assistant", "a")]),
        );
        assert!(error.unwrap_err().contains("share no beginning"));
    }

    #[test]
    fn transcripts_are_cut_after_the_last_shared_mark() {
        assert_eq!(
            split(
                Text::Plain("\n\nHuman: Hi é\n\nAssistant: Hello".into()),
                Text::Plain("\n\nHuman: Hi é\n\nAssistant: He".into()),
            ),
            pair(
                Text::Transcript("\n\nHuman: Hi é\n\nAssistant:".into()),
                Text::Transcript(" Hello".into()),
                Text::Transcript(" He".into()),
            )
        );
        let error = split(Text::Plain("Hello".into()), Text::Plain("Help".into()));
        assert!(error.unwrap_err().contains("share no beginning"));
        // Not a common byte prefix: é and ê begin with the same byte.
        let error = split(Text::Plain("é".into()), Text::Plain("ê".into()));
        assert!(error.is_err());
    }

    #[test]
    fn transcript_turns_are_read_trimmed() {
        let whole = "\n\nHuman: Hi \n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:";
        let turns = [
            Turn::new("user", "Hi"),
            Turn::new("assistant", "Hello"),
            Turn::new("user", "Bye"),
        ];
        assert_eq!(transcript_turns(whole, None).unwrap(), turns);
        assert_eq!(transcript_turns(whole.trim(), None).unwrap(), turns);
        let response = " Hello\n\nHuman: Bye\n\nAssistant: Ciao";
        assert_eq!(
            transcript_turns(response, Some(ASSISTANT)).unwrap(),
            [
                Turn::new("assistant", "Hello"),
                Turn::new("user", "Bye"),
                Turn::new("assistant", "Ciao"),
            ]
        );
        assert_eq!(
            transcript_turns("  ", Some(ASSISTANT)).unwrap(),
            [Turn::new("assistant", "")]
        );
        assert!(transcript_turns("Be kind.\n\nHuman: Hi\n\nAssistant:", None).is_err());
    }

    #[test]
    fn an_empty_conversation_leaves_the_other_its_last_answer() {
        assert_eq!(
            split(
                conversation(&[("user", "q"), ("assistant", "a")]),
                conversation(&[]),
            ),
            pair(
                conversation(&[("user", "q")]),
                conversation(&[("assistant", "a")]),
                conversation(&[]),
            )
        );
    }
}
