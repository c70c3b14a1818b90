//! Commands in answers: where warm-up puts them, what they ask for, and how many there are.

use anyhow::ensure;
use relay::command::{Scanner, write_command};
use relay_model::{AddedTokens, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::chance::Chance;

/// How many commands an answer gets, and what they ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSettings {
    /// From none to so many, each count as likely.
    pub commands_max: usize,
    /// n is d·10^k with d from here …
    #[serde(default = "one")]
    pub digit_min: u32,
    /// … to here, at most 9, …
    pub digit_max: u32,
    /// … and k from here …
    pub power_min: u32,
    /// … to here.
    pub power_max: u32,
}

fn one() -> u32 {
    1
}

impl CommandSettings {
    /// Refuses figures that no command can have.
    pub(super) fn check(self) -> anyhow::Result<()> {
        let Self { digit_min, digit_max, power_min, power_max, .. } = self;
        ensure!(
            1 <= digit_min && digit_min <= digit_max && digit_max <= 9,
            "digits: digit_min to digit_max, from 1 to 9"
        );
        ensure!(
            power_min <= power_max && power_max <= 3,
            "powers: power_min to power_max, up to 3"
        );
        Ok(())
    }
}

/// An answer with commands before tokens chosen at random, no two before the same one. Each asks
/// for no more tokens than are left.
pub(super) fn with_commands(
    answer: &[u32],
    settings: CommandSettings,
    tokenizer: &Tokenizer,
    chance: &mut Chance,
) -> Vec<u32> {
    let mut places: Vec<usize> = (0..answer.len()).collect();
    chance.shuffle(&mut places);
    places.truncate(chance.below(settings.commands_max + 1));
    let mut ids = Vec::with_capacity(answer.len());
    for (place, &id) in answer.iter().enumerate() {
        if places.contains(&place) {
            let digit = chance.between(settings.digit_min..=settings.digit_max);
            let power = chance.between(settings.power_min..=settings.power_max);
            let left = u32::try_from(answer.len() - place).unwrap_or(u32::MAX);
            let command = write_command((digit * 10_u32.pow(power)).min(left));
            ids.extend(tokenizer.encode(&command, AddedTokens::Parse));
        }
        ids.push(id);
    }
    ids
}

/// Complete commands of a text, and broken ones.
pub(super) fn count_commands(text: &str) -> (u32, u32) {
    let mut scanner = Scanner::default();
    let mut scans: Vec<_> = text.bytes().map(|byte| scanner.push(byte)).collect();
    scans.push(scanner.end());
    let whole = scans.iter().filter(|scan| scan.command.is_some()).count();
    (u32::try_from(whole).unwrap_or(u32::MAX), scans.iter().map(|scan| scan.malformed).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_model::{LoadOptions, load};

    use crate::trainable::{Architecture, Weights, test_architecture};
    use crate::{model_folder, vocabulary};

    #[test]
    fn commands_stand_at_distinct_places_and_ask_for_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let architecture = Architecture { vocabulary_tokens: 300, ..test_architecture() };
        let weights = Weights::draw(&architecture, 1).unwrap();
        model_folder::export(&weights, &vocabulary::learn(300, 1).unwrap(), folder.path()).unwrap();
        let tokenizer = load(folder.path(), &LoadOptions::default()).unwrap().tokenizer;
        let [open, close] = relay::command::TAGS.map(|tag| tokenizer.added_token_id(tag).unwrap());
        let answer = tokenizer.encode("the sum is seven and so on it goes", AddedTokens::Plain);
        let settings = CommandSettings {
            commands_max: 3,
            digit_min: 1,
            digit_max: 9,
            power_min: 0,
            power_max: 1,
        };
        let mut counts = [0; 4];
        for index in 0..200 {
            let mut chance = Chance::new(1, "test", index);
            let ids = with_commands(&answer, settings, &tokenizer, &mut chance);
            let mut kept = Vec::new();
            let (mut count, mut at) = (0, 0);
            while at < ids.len() {
                if ids[at] == open {
                    let length = ids[at..].iter().position(|id| *id == close).unwrap();
                    let digits: Vec<u8> = ids[at + 1..at + length]
                        .iter()
                        .flat_map(|&id| tokenizer.token_bytes(id).to_vec())
                        .collect();
                    let asked: usize = String::from_utf8(digits).unwrap().parse().unwrap();
                    assert!((1..=answer.len() - kept.len()).contains(&asked), "{asked}");
                    at += length + 1;
                    count += 1;
                    assert_ne!(ids[at], open, "two at one place");
                }
                kept.push(ids[at]);
                at += 1;
            }
            assert_eq!(kept, answer);
            counts[count] += 1;
        }
        assert!(counts.iter().all(|count| *count > 30), "{counts:?}");
    }

    #[test]
    fn broken_commands_are_counted() {
        let whole = write_command(20);
        let broken = &whole[..whole.len() - 2];
        assert_eq!(count_commands(&format!("a {whole} b {whole} c")), (2, 0));
        assert_eq!(count_commands(&format!("a {broken} b {whole}")), (1, 1));
        assert_eq!(count_commands(broken), (0, 1));
    }
}
