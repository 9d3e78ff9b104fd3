//! Languages: which one a text is in, and the stems of its words.
//!
//! A text is in the language of which it has the most *function words* (articles, pronouns, prepositions), counted as its
//! words are looked up for the index anyway. The stemmers are those that the Snowball compiler 3.0.0 generates.
//!
//! # Limits
//! Danish and Norwegian differ in few function words: a short text of one may count as both. A text of which
//! nothing is known has no language, and all stemmers that are configured look at its words.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use culver_model::text::fold;
use unicode_normalization::UnicodeNormalization;
use waken_snowball::Algorithm;

/// A language with a stemmer. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Language {
    Danish = 0,
    Dutch = 1,
    English = 2,
    Finnish = 3,
    French = 4,
    German = 5,
    Hungarian = 6,
    Italian = 7,
    Norwegian = 8,
    Portuguese = 9,
    Romanian = 10,
    Russian = 11,
    Spanish = 12,
    Swedish = 13,
    Turkish = 14,
}

impl Language {
    pub const ALL: [Language; 15] = [
        Language::Danish,
        Language::Dutch,
        Language::English,
        Language::Finnish,
        Language::French,
        Language::German,
        Language::Hungarian,
        Language::Italian,
        Language::Norwegian,
        Language::Portuguese,
        Language::Romanian,
        Language::Russian,
        Language::Spanish,
        Language::Swedish,
        Language::Turkish,
    ];

    /// ISO 639-1.
    pub fn code(self) -> &'static str {
        match self {
            Language::Danish => "da",
            Language::Dutch => "nl",
            Language::English => "en",
            Language::Finnish => "fi",
            Language::French => "fr",
            Language::German => "de",
            Language::Hungarian => "hu",
            Language::Italian => "it",
            Language::Norwegian => "no",
            Language::Portuguese => "pt",
            Language::Romanian => "ro",
            Language::Russian => "ru",
            Language::Spanish => "es",
            Language::Swedish => "sv",
            Language::Turkish => "tr",
        }
    }

    pub fn of_code(code: &str) -> Option<Language> {
        Language::ALL.into_iter().find(|language| language.code() == code)
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Language::Danish => Algorithm::Danish,
            Language::Dutch => Algorithm::Dutch,
            Language::English => Algorithm::English,
            Language::Finnish => Algorithm::Finnish,
            Language::French => Algorithm::French,
            Language::German => Algorithm::German,
            Language::Hungarian => Algorithm::Hungarian,
            Language::Italian => Algorithm::Italian,
            Language::Norwegian => Algorithm::Norwegian,
            Language::Portuguese => Algorithm::Portuguese,
            Language::Romanian => Algorithm::Romanian,
            Language::Russian => Algorithm::Russian,
            Language::Spanish => Algorithm::Spanish,
            Language::Swedish => Algorithm::Swedish,
            Language::Turkish => Algorithm::Turkish,
        }
    }

    /// Its most frequent function words, in small letters.
    fn function_words(self) -> &'static str {
        match self {
            Language::Danish => {
                "og i at det er en til af på for ikke den med der de som jeg et har om vi var kan fra han vil efter skal \
                 eller hvad blev være hans nogen ved også mig dig sig ud bliver hver enhver af nogle uden"
            }
            Language::Dutch => {
                "de van het een en in is dat op te zijn met voor niet aan er om ook als bij maar dan ze wordt naar door \
                 over uit nog deze wat kan hij ik je wij heeft worden zal ieder geen hun of"
            }
            Language::English => {
                "the of and to in a is that for it you was with on as have but be they this are not or by from at an \
                 which we his her she all would there their what so up out if about who get will has its my your"
            }
            Language::Finnish => {
                "ja on ei että se hän oli mutta ovat kun niin tai myös joka mitä vain jos sen ole hänen ne tämä voi kuin \
                 sekä siitä olla mukaan jokaisella jokaisen kaikki häntä sitä minä olen kuka mikä nyt"
            }
            Language::French => {
                "le la les de des et est un une du en à dans que qui pour pas sur au par il elle ce ne se plus avec sont \
                 nous vous ou mais son sa ses cette aux être comme tout je leur si ont été même toute"
            }
            Language::German => {
                "der die das und ist in zu den nicht von mit dem des ein eine sich auf für im es an als auch er sie wir \
                 ich haben werden oder aus nach bei wie um so nur aber einer einem einen zum zur hat jeder seine"
            }
            Language::Hungarian => {
                "a az és hogy nem is egy ez van de csak meg ha vagy mint már még el ki kell minden azt mert volt lesz \
                 ezt ami aki nincs valamint sem fel olyan akkor így itt úgy volna"
            }
            Language::Italian => {
                "il la di e che un è per in una non del si con le da sono della i al dei come più ma lo nel alla gli ha \
                 ogni delle questo anche o se ad suo sua degli essere ed nella dal io mi"
            }
            Language::Norwegian => {
                "og i det er en å til av på for ikke den med som de jeg et har om vi var kan fra han vil etter skal \
                 eller hva ble være blir seg meg deg ut noen også uten enhver hver mot ved"
            }
            Language::Portuguese => {
                "o a de e que do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à \
                 seu sua ou ser quando muito nos já está eu também só pelo pela até isso toda"
            }
            Language::Romanian => {
                "și în de la a cu pe nu este din că o un să se pentru mai care sau au fi sunt ce ca prin orice \
                 sa lui fost dar nici al ale această acest după toate fără"
            }
            Language::Russian => {
                "и в не на что я с он как это по но они мы из у за то все так его к от для о же ее или мне было вы бы \
                 если при быть есть была есть каждый имеет нет да только уже"
            }
            Language::Spanish => {
                "el la de que y en los del se las por un para con no una su al es lo como más o pero sus le ha me sin \
                 sobre este ya entre cuando todo esta ser son dos también fue era muy hasta toda tiene"
            }
            Language::Swedish => {
                "och i att det är en som på för med av inte den till jag har de ett om han vi var men så kan från sig \
                 man eller ska när under skall också efter vid nu sin mig dig var vara ej utan någon"
            }
            Language::Turkish => {
                "ve bir bu da de için ile ne o gibi daha çok ben var mı en kadar değil olarak olan her ama sonra biz \
                 ki yok veya şey mi sen bana onu herkes olduğu"
            }
        }
    }

    /// The stem of a folded word, composed (NFC).
    pub fn stem(self, word: &str) -> String {
        waken_snowball::stem(self.algorithm(), &composed(word)).into_owned()
    }
}

/// Folding takes letters apart; the stemmers want them together.
fn composed(word: &str) -> Cow<'_, str> {
    if word.is_ascii() { Cow::Borrowed(word) } else { Cow::Owned(word.nfc().collect()) }
}

/// A set of languages, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Languages(pub u16);

impl Languages {
    pub const NONE: Languages = Languages(0);
    pub const ALL: Languages = Languages((1 << Language::ALL.len()) - 1);

    pub fn with(self, language: Language) -> Languages {
        Languages(self.0 | 1 << language as u8)
    }

    pub fn has(self, language: Language) -> bool {
        self.0 & (1 << language as u8) != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Language> {
        Language::ALL.into_iter().filter(move |language| self.has(*language))
    }

    /// The language for which most function words were counted, or several with as many; none where there are too few.
    pub fn most_counted(counts: &[u32; 15]) -> Languages {
        const ENOUGH: u32 = 3;
        let most = counts.iter().copied().max().unwrap_or_default().max(ENOUGH);
        let best = Language::ALL.into_iter().filter(|language| counts[*language as usize] == most);
        best.fold(Languages::NONE, Languages::with)
    }

    /// Codes with commas or spaces between them; an unknown one is given back.
    pub fn parse(codes: &str) -> Result<Languages, &str> {
        let codes = codes.split([',', ' ']).filter(|code| !code.is_empty());
        codes.into_iter().try_fold(Languages::NONE, |languages, code| {
            Language::of_code(code).map(|language| languages.with(language)).ok_or(code)
        })
    }

    /// The languages of which this folded token is a function word.
    pub fn of_function_word(token: &[u8]) -> Languages {
        static WORDS: LazyLock<HashMap<Box<[u8]>, Languages>> = LazyLock::new(|| {
            let mut words: HashMap<Box<[u8]>, Languages> = HashMap::new();
            for language in Language::ALL {
                for word in language.function_words().split_ascii_whitespace() {
                    let languages = words.entry(fold(word).into_bytes().into()).or_default();
                    *languages = languages.with(language);
                }
            }
            words
        });
        const LONGEST: usize = 24;
        if token.len() > LONGEST { Languages::NONE } else { WORDS.get(token).copied().unwrap_or_default() }
    }
}

impl fmt::Display for Languages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, language) in self.iter().enumerate() {
            write!(f, "{}{}", if n == 0 { "" } else { " " }, language.code())?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests/language.rs"]
mod tests;
