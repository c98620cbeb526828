//! Compares what was acknowledged with what is there in the end.

use std::collections::{BTreeMap, HashSet};

/// One of the two writes a client makes of each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Write {
    /// Drafts it.
    Create,
    /// Hands it in.
    Submit,
}

/// One answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Names the event; also its title.
    pub title: String,
    /// What was asked.
    pub write: Write,
    /// The HTTP status.
    pub status: u16,
    /// Whether it was marked as a replay.
    pub replayed: bool,
    /// The very text.
    pub body: String,
}

/// An event that is there in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its title.
    pub title: String,
    /// Its id.
    pub id: String,
    /// Its history.
    pub actions: Vec<String>,
}

/// Compares what was acknowledged with what is there: no acknowledged write is missing, none took effect
/// twice, and a retry got the same response.
pub fn check(answers: &[Answered], found: &[Found]) -> Vec<String> {
    let mut violations = Vec::new();
    let mut answered: BTreeMap<(&str, Write), Vec<&Answered>> = BTreeMap::new();
    for answer in answers {
        answered.entry((&answer.title, answer.write)).or_default().push(answer);
    }
    let mut there: BTreeMap<&str, Vec<&Found>> = BTreeMap::new();
    for event in found {
        there.entry(&event.title).or_default().push(event);
    }
    for (title, events) in &there {
        if events.len() > 1 {
            violations.push(format!("{title} was created {} times", events.len()));
        }
        for event in events {
            for (action, most) in [("created", 1), ("submitted", 1)] {
                let times = event.actions.iter().filter(|done| *done == action).count();
                if times > most || (action == "created" && times != 1) {
                    violations.push(format!("{title} was {action} {times} times"));
                }
            }
        }
    }
    for ((title, write), answers) in &answered {
        let good: Vec<&&Answered> = answers.iter().filter(|answer| answer.status < 300).collect();
        if let Some(bad) = answers.iter().find(|answer| is_final_refusal(answer)) {
            violations.push(format!("{title} {write:?} was refused: {} {}", bad.status, bad.body));
        }
        let Some(first) = good.first() else { continue };
        if good.iter().any(|answer| (answer.status, &answer.body) != (first.status, &first.body)) {
            violations.push(format!("{title} {write:?} was answered in two ways"));
        }
        if good.iter().filter(|answer| !answer.replayed).count() > 1 {
            violations.push(format!("{title} {write:?} was twice answered as if for the first time"));
        }
        let event = there.get(title).and_then(|events| events.first());
        let is_there = event.is_some_and(|event| match write {
            Write::Create => first.body.contains(&event.id),
            Write::Submit => event.actions.iter().any(|action| action == "submitted"),
        });
        if !is_there {
            violations.push(format!("{title} {write:?} was acknowledged and is not there"));
        }
    }
    violations
}

/// Whether asking again would not help, although the request was a legal one.
pub(crate) fn is_final_refusal(answer: &Answered) -> bool {
    (300..500).contains(&answer.status)
        && answer.status != 401
        && !answer.body.contains("idempotency-in-progress")
}

/// The writes that were acknowledged.
pub(crate) fn acknowledged(answers: &[Answered]) -> HashSet<(&str, Write)> {
    let good = answers.iter().filter(|answer| answer.status < 300);
    good.map(|answer| (answer.title.as_str(), answer.write)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(write: Write, status: u16, replayed: bool, body: &str) -> Answered {
        Answered { title: "chaos-1".to_owned(), write, status, replayed, body: body.to_owned() }
    }

    fn found(id: &str, actions: &[&str]) -> Found {
        let actions = actions.iter().map(|action| (*action).to_owned()).collect();
        Found { title: "chaos-1".to_owned(), id: id.to_owned(), actions }
    }

    /// A history in which nothing is wrong.
    fn history() -> (Vec<Answered>, Vec<Found>) {
        let answers = vec![
            answered(Write::Create, 503, false, "away"),
            answered(Write::Create, 409, false, "idempotency-in-progress"),
            answered(Write::Create, 201, false, "{\"id\":\"a\"}"),
            answered(Write::Create, 201, true, "{\"id\":\"a\"}"),
            answered(Write::Submit, 504, false, "late"),
            answered(Write::Submit, 200, true, "{\"id\":\"a\",\"status\":\"SUBMITTED\"}"),
        ];
        (answers, vec![found("a", &["created", "submitted"])])
    }

    #[test]
    fn a_clean_history_passes() {
        let (answers, there) = history();
        assert_eq!(check(&answers, &there), [""; 0]);
        // What was not acknowledged may be there or not.
        assert_eq!(check(&answers[..2], &there), [""; 0]);
        assert_eq!(check(&answers[..2], &[]), [""; 0]);
    }

    #[test]
    fn a_planted_duplicate_is_found() {
        let (answers, mut there) = history();
        there.push(found("b", &["created"]));
        assert_eq!(check(&answers, &there), ["chaos-1 was created 2 times"]);
        let twice = [found("a", &["created", "submitted", "submitted"])];
        assert_eq!(check(&answers, &twice), ["chaos-1 was submitted 2 times"]);
        let (mut answers, there) = history();
        answers.push(answered(Write::Create, 201, false, "{\"id\":\"a\"}"));
        assert_eq!(check(&answers, &there), ["chaos-1 Create was twice answered as if for the first time"]);
    }

    #[test]
    fn a_planted_loss_is_found() {
        let (answers, _) = history();
        let lost = [
            "chaos-1 Create was acknowledged and is not there",
            "chaos-1 Submit was acknowledged and is not there",
        ];
        assert_eq!(check(&answers, &[]), lost);
        assert_eq!(check(&answers, &[found("a", &["created"])]), lost[1..]);
        assert_eq!(check(&answers, &[found("b", &["created", "submitted"])]), lost[..1]);
    }

    #[test]
    fn a_planted_instability_is_found() {
        let (mut answers, there) = history();
        answers.push(answered(Write::Create, 201, true, "{\"id\":\"a\" }"));
        assert_eq!(check(&answers, &there), ["chaos-1 Create was answered in two ways"]);
        let (mut answers, there) = history();
        answers.push(answered(Write::Submit, 409, false, "wrong-state"));
        assert_eq!(check(&answers, &there), ["chaos-1 Submit was refused: 409 wrong-state"]);
    }
}
