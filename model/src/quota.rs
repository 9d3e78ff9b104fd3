//! Quota: what an account may hold, and what it holds (RFC 9208 §5).

/// Limits; `None`: not limited. 0 prohibits any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// STORAGE, in octets: the sum of RFC822.SIZE of all messages.
    pub octets: Option<u64>,
    /// MESSAGE.
    pub messages: Option<u64>,
    /// MAILBOX: what LIST shows, INBOX and \Noselect names among them.
    pub mailboxes: Option<u64>,
}

/// What is held, or would be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub octets: u64,
    pub messages: u64,
    pub mailboxes: u64,
}

/// Whether what would be added has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Fits,
    /// Over the limit by no more than the grace, which one that was not over it has once.
    Grace,
    Over,
}

impl Usage {
    pub fn message(octets: u64) -> Usage {
        Usage { octets, messages: 1, mailboxes: 0 }
    }

    #[must_use]
    pub fn plus(self, more: Usage) -> Usage {
        Usage {
            octets: self.octets.saturating_add(more.octets),
            messages: self.messages.saturating_add(more.messages),
            mailboxes: self.mailboxes.saturating_add(more.mailboxes),
        }
    }

    #[must_use]
    pub fn minus(self, less: Usage) -> Usage {
        Usage {
            octets: self.octets.saturating_sub(less.octets),
            messages: self.messages.saturating_sub(less.messages),
            mailboxes: self.mailboxes.saturating_sub(less.mailboxes),
        }
    }
}

impl Quota {
    /// Where nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Quota::default()
    }

    /// Whether `adds` fits beside `used`. What is not added to is not looked at: who is over a limit may do all else.
    /// `grace`: octets by which the last message may pass the limit of octets.
    pub fn fit(&self, used: Usage, adds: Usage, grace: u64) -> Fit {
        let sum = used.plus(adds);
        let over =
            |limit: Option<u64>, adds: u64, sum: u64| adds > 0 && limit.is_some_and(|limit| sum > limit);
        if over(self.messages, adds.messages, sum.messages)
            || over(self.mailboxes, adds.mailboxes, sum.mailboxes)
        {
            return Fit::Over;
        }
        match self.octets {
            Some(limit) if over(self.octets, adds.octets, sum.octets) => {
                let last = used.octets < limit && sum.octets - limit <= grace;
                if last { Fit::Grace } else { Fit::Over }
            }
            _ => Fit::Fits,
        }
    }

    /// Whether more is used than is allowed.
    pub fn is_exceeded(&self, used: Usage) -> bool {
        let over = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used > limit);
        over(self.octets, used.octets)
            || over(self.messages, used.messages)
            || over(self.mailboxes, used.mailboxes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(octets: u64) -> Usage {
        Usage { octets, ..Usage::default() }
    }

    #[test]
    fn what_fits_is_up_to_the_limit_and_the_last_message_has_grace() {
        let quota = Quota { octets: Some(100), ..Quota::default() };
        for (used, adds, grace, fit) in [
            (0, 100, 0, Fit::Fits),
            (0, 101, 0, Fit::Over),
            (99, 11, 10, Fit::Grace),
            (99, 12, 10, Fit::Over),
            // Who is at the limit has had it.
            (100, 1, 10, Fit::Over),
            (150, 0, 10, Fit::Fits),
            (u64::MAX, u64::MAX, 10, Fit::Over),
        ] {
            assert_eq!(quota.fit(octets(used), octets(adds), grace), fit, "{used} {adds} {grace}");
        }
        assert_eq!(Quota::default().fit(octets(u64::MAX), octets(5), 0), Fit::Fits);
        let nothing = Quota { octets: Some(0), ..Quota::default() };
        assert_eq!(nothing.fit(octets(0), octets(1), 10), Fit::Over);
    }

    #[test]
    fn each_resource_is_limited_on_its_own() {
        let quota = Quota { octets: None, messages: Some(2), mailboxes: Some(3) };
        let used = Usage { octets: 1, messages: 2, mailboxes: 3 };
        assert_eq!(quota.fit(used, Usage::message(5), 1000), Fit::Over);
        assert_eq!(quota.fit(used, Usage { mailboxes: 1, ..Usage::default() }, 0), Fit::Over);
        assert_eq!(quota.fit(used.minus(Usage::message(1)), Usage::message(5), 0), Fit::Fits);
        assert!(!quota.is_exceeded(used) && quota.is_exceeded(used.plus(Usage::message(0))));
        // Over the messages, mailboxes can still be made.
        let used = Usage { messages: 9, mailboxes: 2, ..Usage::default() };
        assert_eq!(quota.fit(used, Usage { mailboxes: 1, ..Usage::default() }, 0), Fit::Fits);
    }
}
