//! The queue as a few lists in memory: what `machine` holds the real one against.
//!
//! Says the same as the queue's documents in the plainest way. It knows nothing of SQL, time or tasks.

use queue::{EventKind, Status};

pub(crate) const CAPACITY: usize = 12;
pub(crate) const MAX_ATTEMPTS: u32 = 3;
/// Nobody, and two API keys: how many of each may wait and run.
pub(crate) const LIMITS: [(usize, usize); 3] = [(usize::MAX, usize::MAX), (4, 1), (5, 2)];
pub(crate) const FILES_BYTES: u64 = 1_000;

#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the columns of the table")]
pub(crate) struct Row {
    pub(crate) owner: usize,
    pub(crate) webhook: bool,
    pub(crate) status: Status,
    pub(crate) priority: i32,
    pub(crate) turn: i64,
    pub(crate) attempt: u32,
    pub(crate) lost: u32,
    pub(crate) cancelling: bool,
    pub(crate) progress: u8,
    pub(crate) step: u32,
    pub(crate) checkpoint: Option<u32>,
    pub(crate) furthest: u32,
    pub(crate) low_memory: bool,
    pub(crate) expired: bool,
    pub(crate) deleted: bool,
    /// Rises with each completion.
    pub(crate) completed: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    /// In the order of their creation.
    pub(crate) rows: Vec<Row>,
    pub(crate) events: Vec<(usize, EventKind, u32)>,
    pub(crate) deliveries: usize,
    pub(crate) paused: bool,
    completions: usize,
}

impl Model {
    pub(crate) fn submit(&mut self, owner: usize, priority: i32, webhook: bool) -> bool {
        let waits = |row: &&Row| row.status == Status::Queued;
        let all = self.rows.iter().filter(waits).count();
        let own = self.rows.iter().filter(waits).filter(|row| row.owner == owner).count();
        if all >= CAPACITY || own >= LIMITS[owner].0 {
            return false;
        }
        let turn = self.next_turn(owner, priority);
        self.rows.push(Row {
            owner,
            webhook,
            status: Status::Queued,
            priority,
            turn,
            attempt: 0,
            lost: 0,
            cancelling: false,
            progress: 0,
            step: 0,
            checkpoint: None,
            furthest: 0,
            low_memory: false,
            expired: false,
            deleted: false,
            completed: 0,
        });
        self.tell(self.rows.len() - 1, EventKind::Queued);
        true
    }

    fn next_turn(&self, owner: usize, priority: i32) -> i64 {
        let at = |status| {
            self.rows
                .iter()
                .filter(move |row| row.priority == priority && row.status == status && !row.deleted)
        };
        let own = at(Status::Queued).chain(at(Status::InProgress)).filter(|row| row.owner == owner);
        let behind_own = own.map(|row| row.turn + 1).max().unwrap_or(0);
        let running = at(Status::InProgress).map(|row| row.turn).max();
        let line = running.or(at(Status::Queued).map(|row| row.turn).min()).unwrap_or(0);
        behind_own.max(line)
    }

    /// Those that wait, the next first, whoever may run.
    pub(crate) fn line(&self) -> Vec<usize> {
        let mut line: Vec<usize> =
            (0..self.rows.len()).filter(|n| self.rows[*n].status == Status::Queued).collect();
        line.sort_by_key(|n| (std::cmp::Reverse(self.rows[*n].priority), self.rows[*n].turn, *n));
        line
    }

    pub(crate) fn claim(&mut self) -> Option<usize> {
        if self.paused {
            return None;
        }
        let running = |owner| {
            self.rows.iter().filter(|row| row.status == Status::InProgress && row.owner == owner).count()
        };
        let next = self.line().into_iter().find(|n| {
            let owner = self.rows[*n].owner;
            running(owner) < LIMITS[owner].1
        })?;
        let row = &mut self.rows[next];
        row.status = Status::InProgress;
        row.attempt += 1;
        self.tell(next, EventKind::Started);
        Some(next)
    }

    pub(crate) fn progress(&mut self, n: usize, step: u32, percent: u8, restart: bool) {
        let row = &mut self.rows[n];
        let step = step.max(row.checkpoint.unwrap_or(0));
        row.step = if restart { step } else { row.step.max(step) };
        row.progress = row.progress.max(percent);
    }

    pub(crate) fn checkpoint(&mut self, n: usize, step: Option<u32>) {
        let row = &mut self.rows[n];
        row.checkpoint = step;
        row.step = row.step.max(step.unwrap_or(0));
        if step.is_some_and(|step| step > row.furthest) {
            row.lost = 0;
            row.furthest = step.unwrap_or(0);
        }
    }

    pub(crate) fn cancel(&mut self, n: usize) {
        let row = &mut self.rows[n];
        if row.cancelling || row.status.is_terminal() {
            return;
        }
        row.cancelling = true;
        if row.status == Status::Queued {
            self.end(n, Status::Cancelled);
        } else {
            self.tell(n, EventKind::Cancelling);
        }
    }

    pub(crate) fn end(&mut self, n: usize, status: Status) {
        let row = &mut self.rows[n];
        row.status = status;
        row.checkpoint = None;
        if status == Status::Completed {
            self.completions += 1;
            (row.completed, row.progress, row.step) = (self.completions, 100, 50);
        }
        self.deliveries += usize::from(row.webhook);
        let kind = match status {
            Status::Completed => EventKind::Completed,
            Status::Failed => EventKind::Failed,
            _ => EventKind::Cancelled,
        };
        self.tell(n, kind);
    }

    pub(crate) fn give_back(&mut self, n: usize, low_memory: bool) {
        if self.rows[n].cancelling {
            return self.end(n, Status::Cancelled);
        }
        let row = &mut self.rows[n];
        row.status = Status::Queued;
        row.low_memory |= low_memory;
        row.step = row.checkpoint.unwrap_or(0);
        self.tell(n, EventKind::Queued);
    }

    /// All that run have lost their worker; those that go on waiting are told of first.
    pub(crate) fn rescue(&mut self) {
        let running: Vec<usize> =
            (0..self.rows.len()).filter(|n| self.rows[*n].status == Status::InProgress).collect();
        for n in &running {
            self.rows[*n].lost += 1;
        }
        let goes_on = |row: &Row| !row.cancelling && row.lost < MAX_ATTEMPTS;
        let (on, over): (Vec<_>, Vec<_>) = running.into_iter().partition(|n| goes_on(&self.rows[*n]));
        for n in on {
            self.give_back(n, false);
        }
        for n in over {
            let status = if self.rows[n].cancelling { Status::Cancelled } else { Status::Failed };
            self.end(n, status);
        }
    }

    pub(crate) fn set_priority(&mut self, n: usize, priority: i32) -> bool {
        if self.rows[n].status != Status::Queued {
            return false;
        }
        if self.rows[n].priority != priority {
            self.rows[n].turn = self.next_turn(self.rows[n].owner, priority);
            self.rows[n].priority = priority;
        }
        self.tell(n, EventKind::Moved);
        true
    }

    /// As many of the oldest files as it takes.
    pub(crate) fn expire(&mut self, bytes: u64) -> Vec<usize> {
        let mut there: Vec<usize> = (0..self.rows.len())
            .filter(|n| {
                let row = &self.rows[*n];
                row.status == Status::Completed && !row.expired && !row.deleted
            })
            .collect();
        there.sort_by_key(|n| self.rows[*n].completed);
        there.truncate(bytes.div_ceil(FILES_BYTES) as usize);
        for n in &there {
            self.rows[*n].expired = true;
            self.tell(*n, EventKind::Expired);
        }
        there
    }

    pub(crate) fn delete(&mut self, n: usize) -> bool {
        let may = self.rows[n].status.is_terminal() && !self.rows[n].deleted;
        if may {
            self.rows[n].deleted = true;
            self.tell(n, EventKind::Deleted);
        }
        may
    }

    fn tell(&mut self, n: usize, kind: EventKind) {
        self.events.push((n, kind, self.rows[n].attempt));
    }
}
