//! `--isolation`: whether to show records of transactions that are not committed, and how to mark them.

use clap::ValueEnum;

use crate::proto::v1;
use crate::proto::v1::fetch_request::FetchForm;
use crate::proto::v1::record::Transaction;
use crate::proto::v1::search_request::Order;

/// Which records to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Isolation {
    /// All records. Those of aborted transactions, and of transactions whose end is not stored, are marked.
    Uncommitted,
    /// As consumers with isolation.level=read_committed see them: without the marked ones.
    Committed,
}

impl Isolation {
    /// The order for the search request.
    pub fn order(self, order: Order) -> Order {
        match order {
            _ if self == Self::Uncommitted => order,
            Order::OldestFirst => Order::OldestFirstCommitted,
            Order::ByScore => Order::ByScoreCommitted,
            _ => Order::NewestFirstCommitted,
        }
    }

    /// The form for the fetch request.
    pub fn form(self, kafka_batches: bool) -> FetchForm {
        match (self, kafka_batches) {
            (Self::Uncommitted, false) => FetchForm::Records,
            (Self::Uncommitted, true) => FetchForm::KafkaBatches,
            (Self::Committed, false) => FetchForm::RecordsCommitted,
            (Self::Committed, true) => FetchForm::KafkaBatchesCommitted,
        }
    }
}

/// The mark before a record's value in a line.
pub fn mark(record: &v1::Record) -> &'static str {
    match record.transaction() {
        Transaction::Unspecified => "",
        Transaction::Aborted => "[aborted] ",
        Transaction::Open => "[open] ",
    }
}
