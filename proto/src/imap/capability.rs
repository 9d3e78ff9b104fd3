//! Capabilities: what is advertised, as a function of the session's state and the configuration.

use super::state::{Stage, State};
use crate::sasl::Mechanisms;

/// Advertised in every stage.
const ALWAYS: [&str; 6] = ["IMAP4rev1", "IMAP4rev2", "LITERAL+", "ID", "ENABLE", "IDLE"];
/// Advertised once logged in.
const AFTER_LOGIN: [&str; 47] = [
    "NAMESPACE",
    "UIDPLUS",
    "MOVE",
    "UNSELECT",
    "CHILDREN",
    "SPECIAL-USE",
    "CONDSTORE",
    "QRESYNC",
    "ESEARCH",
    "SEARCHRES",
    "STATUS=SIZE",
    "LIST-EXTENDED",
    "LIST-STATUS",
    "APPENDLIMIT",
    "WITHIN",
    "SAVEDATE",
    "SORT",
    "SORT=DISPLAY",
    "ESORT",
    "THREAD=ORDEREDSUBJECT",
    "THREAD=REFERENCES",
    "THREAD=REFS",
    "PARTIAL",
    "OBJECTID",
    "MULTIAPPEND",
    "REPLACE",
    "CREATE-SPECIAL-USE",
    "COMPRESS=DEFLATE",
    "UNAUTHENTICATE",
    "UTF8=ACCEPT",
    "UIDONLY",
    "MULTISEARCH",
    "NOTIFY",
    "CONTEXT=SEARCH",
    "CONTEXT=SORT",
    "INPROGRESS",
    "CATENATE",
    "BINARY",
    "LANGUAGE",
    "PREVIEW",
    "METADATA",
    "LIST-METADATA",
    "QUOTA",
    "QUOTA=RES-STORAGE",
    "QUOTA=RES-MESSAGE",
    "QUOTA=RES-MAILBOX",
    "QUOTASET",
];

/// Extensions that are not advertised. IMAP4rev1 is, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask(u64);

impl Mask {
    /// From names, in any case, separated by spaces. `Err` holds the first name that is none of ours.
    pub fn parse(names: &str) -> Result<Mask, String> {
        let mut mask = Mask::default();
        for name in names.split_ascii_whitespace() {
            let place = ALWAYS.iter().chain(&AFTER_LOGIN).position(|known| known.eq_ignore_ascii_case(name));
            match place {
                Some(place) if place > 0 => mask.0 |= 1 << place,
                _ => return Err(name.to_owned()),
            }
        }
        Ok(mask)
    }

    /// Hides what either of them does.
    #[must_use]
    pub fn and(self, other: Mask) -> Mask {
        Mask(self.0 | other.0)
    }

    fn hides(self, place: usize) -> bool {
        let place_of = |name: &&str| ALWAYS.iter().chain(&AFTER_LOGIN).position(|known| known == name);
        let stands_on: &[&str] = match AFTER_LOGIN.get(place.wrapping_sub(ALWAYS.len())) {
            // RFC 7162 §3.2.3: QRESYNC stands on CONDSTORE; RFC 5182 §2.1: SEARCHRES on ESEARCH.
            Some(&"QRESYNC") => &["CONDSTORE"],
            Some(&"SEARCHRES" | &"PARTIAL") => &["ESEARCH"],
            // RFC 5957, RFC 5267 §3.
            Some(&"SORT=DISPLAY" | &"ESORT") => &["SORT"],
            Some(&"LIST-STATUS") => &["LIST-EXTENDED"],
            // RFC 9590.
            // RFC 9208 §1, §9.1.
            Some(&"QUOTA=RES-STORAGE" | &"QUOTA=RES-MESSAGE" | &"QUOTA=RES-MAILBOX" | &"QUOTASET") => {
                &["QUOTA"]
            }
            Some(&"LIST-METADATA") => &["LIST-EXTENDED", "METADATA"],
            _ => &[],
        };
        let hidden = |place: usize| self.0 & (1 << place) != 0;
        hidden(place) || stands_on.iter().filter_map(place_of).any(hidden)
    }
}

/// What the listener and the configuration allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub mask: Mask,
    /// There is a certificate.
    pub starttls: bool,
    /// Clients may log in without TLS: the address is configured as secure.
    pub plaintext: bool,
    /// What works on this connection.
    pub mechanisms: Mechanisms,
    /// LITERAL- in place of LITERAL+: [`super::Limits::literal_minus`].
    pub literal_minus: bool,
    /// [`super::Limits::append_octets_max`].
    pub append_octets_max: u64,
    /// The user may set quotas.
    pub quota_set: bool,
    /// COMPRESS can be given.
    pub compress: bool,
    /// UIDONLY is advertised: there are clients that enable what they see and then use sequence numbers.
    pub uid_only: bool,
}

/// The list, separated by spaces: for the CAPABILITY response and [`super::Code::Capability`].
pub fn capabilities(state: &State, offer: &Offer) -> String {
    let mut list = String::with_capacity(256);
    let mut add = |name: &str| {
        if !list.is_empty() {
            list.push(' ');
        }
        list.push_str(name);
    };
    let before_login = state.stage == Stage::NotAuthenticated;
    let stage = if before_login { &[][..] } else { &AFTER_LOGIN[..] };
    for (place, name) in ALWAYS.iter().chain(stage).enumerate() {
        if offer.mask.hides(place) {
            continue;
        }
        match *name {
            // RFC 7888 §5: never both.
            "LITERAL+" if offer.literal_minus => add("LITERAL-"),
            "COMPRESS=DEFLATE" if !offer.compress => {}
            "UIDONLY" if !offer.uid_only => {}
            "APPENDLIMIT" => add(&format!("APPENDLIMIT={}", offer.append_octets_max)),
            "QUOTASET" if !offer.quota_set => {}
            name => add(name),
        }
    }
    if before_login {
        if offer.starttls && !state.tls {
            add("STARTTLS");
        }
        let mechanisms = if state.tls || offer.plaintext { offer.mechanisms } else { Mechanisms::NONE };
        if !mechanisms.is_empty() {
            add("SASL-IR");
        }
        for mechanism in mechanisms.iter() {
            add(&format!("AUTH={}", mechanism.name()));
        }
        if !mechanisms.take_passwords() {
            // RFC 3501 §6.2.3, §11.1.
            add("LOGINDISABLED");
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer {
            mask: Mask::default(),
            starttls: true,
            plaintext: false,
            mechanisms: Mechanisms::default(),
            literal_minus: false,
            append_octets_max: 1000,
            quota_set: false,
            compress: true,
            uid_only: true,
        }
    }

    #[test]
    fn login_is_disabled_until_tls() {
        let mut state = State::default();
        assert_eq!(
            capabilities(&state, &offer()),
            "IMAP4rev1 IMAP4rev2 LITERAL+ ID ENABLE IDLE STARTTLS LOGINDISABLED"
        );
        state.tls = true;
        let list = capabilities(&state, &offer());
        assert_eq!(list, "IMAP4rev1 IMAP4rev2 LITERAL+ ID ENABLE IDLE SASL-IR AUTH=PLAIN AUTH=LOGIN");
        state.tls = false;
        let list = capabilities(&state, &Offer { plaintext: true, ..offer() });
        assert_eq!(
            list,
            "IMAP4rev1 IMAP4rev2 LITERAL+ ID ENABLE IDLE STARTTLS SASL-IR AUTH=PLAIN AUTH=LOGIN"
        );
    }

    #[test]
    fn mechanisms_are_listed_where_they_work() {
        use crate::sasl::Mechanism::{OauthBearer, ScramSha1, ScramSha256, ScramSha256Plus};
        let mut state = State { tls: true, ..State::default() };
        let mechanisms = Mechanisms::NONE.with(OauthBearer).with(ScramSha256).with(ScramSha256Plus);
        let list = |state: &State, mechanisms| capabilities(state, &Offer { mechanisms, ..offer() });
        let said = list(&state, mechanisms);
        let expected = "SASL-IR AUTH=SCRAM-SHA-256-PLUS AUTH=SCRAM-SHA-256 AUTH=OAUTHBEARER LOGINDISABLED";
        assert!(said.ends_with(expected), "no password is taken as it is: {said}");
        let said = list(&state, Mechanisms::default().with(ScramSha1));
        assert!(said.ends_with(" SASL-IR AUTH=SCRAM-SHA-1 AUTH=PLAIN AUTH=LOGIN"), "{said}");
        let said = list(&state, Mechanisms::NONE);
        assert!(!said.contains("SASL-IR") && said.ends_with(" LOGINDISABLED"), "{said}");
        state.tls = false;
        let said = list(&state, mechanisms);
        assert!(!said.contains("AUTH=") && said.ends_with(" STARTTLS LOGINDISABLED"), "{said}");
    }

    #[test]
    fn the_mask_takes_what_stands_on_it_along() {
        let state = State { stage: Stage::Authenticated, ..State::default() };
        let mask = Mask::parse("condstore ESEARCH idle").unwrap();
        let list = capabilities(&state, &Offer { mask, literal_minus: true, ..offer() });
        let expect = "IMAP4rev1 IMAP4rev2 LITERAL- ID ENABLE NAMESPACE UIDPLUS MOVE UNSELECT CHILDREN SPECIAL-USE \
                      STATUS=SIZE LIST-EXTENDED LIST-STATUS APPENDLIMIT=1000 WITHIN SAVEDATE \
                      SORT SORT=DISPLAY ESORT THREAD=ORDEREDSUBJECT THREAD=REFERENCES THREAD=REFS OBJECTID \
                      MULTIAPPEND REPLACE CREATE-SPECIAL-USE COMPRESS=DEFLATE UNAUTHENTICATE UTF8=ACCEPT UIDONLY MULTISEARCH NOTIFY CONTEXT=SEARCH CONTEXT=SORT INPROGRESS CATENATE BINARY LANGUAGE PREVIEW \
                      METADATA LIST-METADATA QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE QUOTA=RES-MAILBOX";
        assert_eq!(list, expect);
        let list = capabilities(&state, &Offer { quota_set: true, ..offer() });
        assert!(list.ends_with(" QUOTA=RES-MAILBOX QUOTASET"), "{list}");
        let mask = Mask::parse("QUOTA METADATA").unwrap();
        let list = capabilities(&state, &Offer { mask, quota_set: true, ..offer() });
        assert!(!list.contains("QUOTA") && !list.contains("METADATA"), "{list}");
        assert_eq!(Mask::parse("XYZZY"), Err("XYZZY".to_owned()));
        assert!(Mask::parse("IMAP4rev1").is_err());
    }
}
