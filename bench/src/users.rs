//! The accounts that a run works with.

use anyhow::{Result, bail};

use crate::wire::imap::quoted;

#[derive(clap::Args, Clone, Debug)]
pub struct UserOptions {
    /// How many users the pattern stands for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub users: u32,
    /// The users' names: %d is a number from --user-first on
    #[arg(long, value_name = "PATTERN", default_value = "user%d@example.test")]
    pub user_pattern: String,
    /// The number of the first user
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub user_first: u32,
    /// Their password: %d is the number here as well
    #[arg(long, value_name = "PASSWORD", default_value = "password")]
    pub password: String,
    /// A user and password instead of the pattern; may be given several times
    #[arg(long = "account", value_name = "USER:PASSWORD")]
    pub accounts: Vec<String>,
}

pub struct Account {
    pub user: String,
    pub password: String,
    /// LOGIN with both, without a tag, ready to send.
    pub login: Vec<u8>,
}

impl Account {
    fn new(user: String, password: String) -> Result<Account> {
        if user.is_empty() || password.is_empty() {
            bail!("a user and a password may not be empty");
        }
        if [&user, &password].iter().any(|text| text.bytes().any(|b| !(0x20..=0x7e).contains(&b))) {
            bail!("{user:?}: users and passwords have to be printable ASCII");
        }
        let login = format!("LOGIN {} {}\r\n", quoted(&user), quoted(&password)).into_bytes();
        Ok(Account { user, password, login })
    }
}

pub fn accounts(options: &UserOptions) -> Result<Vec<Account>> {
    if options.accounts.is_empty() {
        if options.users > 1 && !options.user_pattern.contains("%d") {
            bail!(
                "--user-pattern {:?} has no %d, so it names one user and not {}",
                options.user_pattern,
                options.users
            );
        }
        return (0..options.users)
            .map(|n| {
                let number = (options.user_first + n).to_string();
                Account::new(
                    options.user_pattern.replace("%d", &number),
                    options.password.replace("%d", &number),
                )
            })
            .collect();
    }
    let parsed = options.accounts.iter().map(|text| match text.split_once(':') {
        Some((user, password)) => Account::new(user.to_owned(), password.to_owned()),
        None => bail!("--account {text:?}: write USER:PASSWORD"),
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> UserOptions {
        UserOptions {
            users: 3,
            user_pattern: "u%d@x.test".to_owned(),
            user_first: 9,
            password: "p\"%d".to_owned(),
            accounts: Vec::new(),
        }
    }

    #[test]
    fn a_pattern_names_numbered_users() {
        let found = accounts(&options()).unwrap();
        let names: Vec<&str> = found.iter().map(|account| account.user.as_str()).collect();
        assert_eq!(names, ["u9@x.test", "u10@x.test", "u11@x.test"]);
        assert_eq!(found[1].login, b"LOGIN \"u10@x.test\" \"p\\\"10\"\r\n");
    }

    #[test]
    fn accounts_take_the_place_of_the_pattern() {
        let found = accounts(&UserOptions { accounts: vec!["a@x:p:q".to_owned()], ..options() }).unwrap();
        assert_eq!((found[0].user.as_str(), found[0].password.as_str(), found.len()), ("a@x", "p:q", 1));
        for wrong in ["a", ":p", "a:", "ä:p"] {
            let given = UserOptions { accounts: vec![wrong.to_owned()], ..options() };
            assert!(accounts(&given).is_err(), "{wrong}");
        }
        assert!(accounts(&UserOptions { user_pattern: "u".to_owned(), ..options() }).is_err());
    }
}
