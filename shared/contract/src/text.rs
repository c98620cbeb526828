//! Text as it is compared: one place that normalises it, and one that says what of it can be seen.
//!
//! Stored text is in NFC. What is compared (searches, addresses, names that must be unique) has a second form that is
//! made here, and by no database: they differ in what they fold.

use std::borrow::Cow;

use icu_casemap::CaseMapper;
use icu_properties::props::{
    BinaryProperty, DefaultIgnorableCodePoint, EnumeratedProperty, GeneralCategory, GeneralCategoryGroup,
};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unicode_security::confusable_detection::skeleton;

/// The text in Normalization Form C (UAX #15).
pub fn normalized(text: &str) -> Cow<'_, str> {
    if is_nfc_quick(text.chars()) == IsNormalized::Yes {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.nfc().collect())
    }
}

/// The text for caseless comparison: the same for every way to write a letter in upper or lower case, composed or
/// not. Simple case folding (Unicode, section 5.18): a letter is a letter, so `ß` is not `ss`.
pub fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mapper = CaseMapper::new();
    text.nfd().map(|character| mapper.simple_fold(character)).nfc().collect()
}

/// An address or another identifier in its one form: compatible characters are one, each letter in lower case by
/// itself, so that it stays an address that can be shown.
pub fn identifier(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mapper = CaseMapper::new();
    text.nfkc().map(|character| mapper.simple_fold(character)).nfc().collect()
}

/// What is the same for two names that look the same: case, spacing, punctuation and what cannot be seen do not
/// count, and a letter of one script counts as the letter of another that it cannot be told from (UTS #39). Letters of
/// ASCII stay what they are: `rn` is not `m`. Of a name without letters and digits everything but blanks counts.
pub fn lookalike(name: &str) -> String {
    let visible: String =
        name.nfkc().filter(|character| !is_invisible(*character) && !character.is_whitespace()).collect();
    let alike: String = folded(&visible).chars().map(prototype).collect();
    let alike = folded(&alike);
    let letters: String = alike.chars().filter(|character| makes_a_word(*character)).collect();
    if letters.is_empty() { alike } else { letters }
}

/// What a character cannot be told from. What words are made of stays so, although an Arabic zero looks like a dot.
fn prototype(character: char) -> String {
    if character.is_ascii() {
        return character.into();
    }
    let alike: String = skeleton(character.encode_utf8(&mut [0; 4])).collect();
    let loses_a_letter = makes_a_word(character) && !alike.chars().any(makes_a_word);
    if loses_a_letter { character.into() } else { alike }
}

/// Letters, digits and the marks on them: in many scripts a vowel or a tone is a mark.
fn makes_a_word(character: char) -> bool {
    character.is_alphanumeric() || GeneralCategoryGroup::Mark.contains(GeneralCategory::for_char(character))
}

/// Whether nothing is seen of a character, wherever it stands: format characters, fillers, blank patterns.
pub fn is_invisible(character: char) -> bool {
    // The blank Braille pattern is a symbol by its category.
    character == '\u{2800}' || DefaultIgnorableCodePoint::for_char(character)
}

/// How many characters a text has to those who read it: without what cannot be seen, and without the blanks around it.
pub fn visible_len(text: &str) -> usize {
    let is_blank = |character: char| character.is_whitespace() || is_invisible(character);
    text.trim_matches(is_blank).chars().filter(|character| !is_invisible(*character)).count()
}

/// Control characters, and the bidirectional overrides that make text read other than it is.
pub(super) fn is_unwanted(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Characters that begin a new line (UAX #14, class BK), of which control characters are refused anyway.
pub(super) fn breaks_line(character: char) -> bool {
    matches!(character, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_differs_in_case_or_composition_folds_to_the_same() {
        for (one, other) in [
            ("Größe", "GRO\u{308}\u{1E9E}E"),
            ("ΟΔΟΣ", "οδος"),
            ("οδοσ", "οδος"),
            ("café", "CAFE\u{301}"),
            ("İstanbul", "i\u{307}stanbul"),
        ] {
            assert_eq!(folded(one), folded(other), "{one} {other}");
        }
        assert_ne!(folded("a"), folded("ä"));
        assert_ne!(folded("ß"), folded("ss"));
        assert_eq!(normalized("cafe\u{301}"), "café");
    }

    #[test]
    fn addresses_have_one_form() {
        for (one, other) in [("JOSÉ", "jose\u{301}"), ("ｕｓｅｒ", "user"), ("ΟΔΟΣ", "οδος")] {
            assert_eq!(identifier(one), identifier(other), "{one} {other}");
        }
        assert_eq!(identifier("straße"), "straße", "it must remain an address");
    }

    #[test]
    fn names_that_look_the_same_are_known() {
        for other in [
            "ACME corp",
            "Ａｃｍｅ Corp",
            "Ac\u{200b}me Corp",
            "Асme Соrp",
            "acme-corp",
            "Acme\u{a0}Corp",
            "A\u{2060}cme\u{3164}Corp",
        ] {
            assert_eq!(lookalike("Acme Corp"), lookalike(other), "{other}");
        }
        assert_eq!(lookalike("Café"), lookalike("CAFE\u{301}"));
        for (one, other) in [
            ("Modern", "Modem"),
            ("Acme", "Acne"),
            ("Café", "Cafe"),
            ("شركة ١٠", "شركة ١"),
            ("ノート", "ート"),
            ("ใกล้", "ใกล"),
            ("कमल", "कम्ल"),
            ("丶", "ノ"),
            ("+++", "---"),
            ("★", "☆"),
        ] {
            assert_ne!(lookalike(one), lookalike(other), "{one} {other}");
        }
        assert_eq!(lookalike("+ + +"), lookalike("++\u{200b}+"));
        assert_eq!(lookalike("東京"), "東京");
    }

    #[test]
    fn only_what_can_be_seen_counts() {
        for nothing in [
            "",
            "   ",
            "\u{200b}\u{200b}\u{200b}",
            "\u{2800}\u{2800}",
            "\u{3164}",
            "\u{a0}\u{feff}\t",
            "\u{115f}\u{1160}\u{ffa0}",
            "\u{e0020}\u{ad}",
        ] {
            assert_eq!(visible_len(nothing), 0, "{nothing:?}");
        }
        assert_eq!(visible_len(" a b "), 3);
        assert_eq!(visible_len("a\u{200b}b"), 2);
        assert_eq!(visible_len("東京"), 2);
    }

    proptest! {
        #[test]
        fn each_form_is_its_own(text in "\\PC{0,40}") {
            let once = normalized(&text).into_owned();
            prop_assert_eq!(normalized(&once), once.as_str());
            prop_assert_eq!(folded(&folded(&text)), folded(&text));
            prop_assert_eq!(identifier(&identifier(&text)), identifier(&text));
            prop_assert_eq!(folded(&text), folded(&text.nfd().collect::<String>()));
            prop_assert_eq!(lookalike(&text).is_empty(), visible_len(&text) == 0);
        }
    }
}
