//! Reads the pickles that `torch.save` writes, without running anything.
//!
//! A pickle is a program for a small stack machine that can name any function of Python and call it. Here a name
//! stays a name and a call a note of what would be called with what: [`super::torch`] takes from these what describes
//! tensors, and nothing else is looked at. Values lie in one table and point into it, so that a file that refers to
//! itself, or nests without end, costs no more than its length.

use std::collections::HashMap;

/// A value on the machine's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Int(i64),
    /// Into [`Pickle::nodes`].
    Node(usize),
    /// None, booleans, floats, lists: nothing that describes a tensor.
    Other,
    Mark,
}

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Tuple(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// Module and name, with a space between.
    Global(String),
    /// What would be called, and with what.
    Call(Value, Value),
    /// A reference to what lies outside the pickle.
    Persistent(Value),
}

/// What a pickle describes.
pub(super) struct Pickle {
    nodes: Vec<Node>,
    pub(super) root: Value,
}

impl Pickle {
    /// # Errors
    /// Where and why these bytes are not a pickle of torch's.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut machine =
            Machine { bytes, at: 0, stack: Vec::new(), memo: HashMap::new(), nodes: Vec::new() };
        while machine.step().map_err(|message| format!("pickle, byte {}: {message}", machine.at))? {}
        let root = machine.pop()?;
        Ok(Self { nodes: machine.nodes, root })
    }

    fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.nodes.get(index),
            _ => None,
        }
    }

    pub(super) fn text(&self, value: Value) -> Option<&str> {
        match self.node(value)? {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.node(value)? {
            Node::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, value: Value) -> Option<&[Value]> {
        match self.node(value)? {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn global(&self, value: Value) -> Option<&str> {
        match self.node(value)? {
            Node::Global(name) => Some(name),
            _ => None,
        }
    }

    pub(super) fn persistent(&self, value: Value) -> Option<&[Value]> {
        match self.node(value)? {
            Node::Persistent(id) => self.tuple(*id),
            _ => None,
        }
    }

    /// What would be called, by name, and its arguments.
    pub(super) fn call(&self, value: Value) -> Option<(&str, &[Value])> {
        match self.node(value)? {
            Node::Call(function, arguments) => Some((self.global(*function)?, self.tuple(*arguments)?)),
            _ => None,
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    nodes: Vec<Node>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("it ends too early")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// Up to eight little-endian bytes, without a sign.
    fn unsigned(&mut self, count: usize) -> Result<u64, String> {
        Ok(self.take(count)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn line(&mut self) -> Result<String, String> {
        let length =
            self.bytes[self.at..].iter().position(|byte| *byte == b'\n').ok_or("it ends too early")?;
        let line = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.at += 1;
        Ok(line)
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark).ok_or("there is no mark")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn pop_tuple(&mut self, count: usize) -> Result<(), String> {
        let first = self.stack.len().checked_sub(count).ok_or("the stack is empty")?;
        let items = self.stack.split_off(first);
        self.push(Node::Tuple(items));
        Ok(())
    }

    fn push(&mut self, node: Node) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    fn put(&mut self, slot: u64) -> Result<(), String> {
        let top = *self.stack.last().ok_or("the stack is empty")?;
        self.memo.insert(slot as u32, top);
        Ok(())
    }

    fn get(&mut self, slot: u64) -> Result<(), String> {
        let value = self.memo.get(&(slot as u32)).ok_or("it refers to what it has not seen")?;
        self.stack.push(*value);
        Ok(())
    }

    /// Into the dictionary on top of the stack.
    fn set_items(&mut self, items: &[Value]) {
        // Else it is an entry of an object that is not looked at.
        if let Some(Value::Node(top)) = self.stack.last()
            && let Some(Node::Dict(entries)) = self.nodes.get_mut(*top)
        {
            entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let is_dict = matches!(function, Value::Node(index)
            if matches!(&self.nodes[index], Node::Global(name) if name == "collections OrderedDict"));
        self.push(if is_dict { Node::Dict(Vec::new()) } else { Node::Call(function, arguments) });
        Ok(())
    }

    /// One instruction; false after the last.
    fn step(&mut self) -> Result<bool, String> {
        match self.take(1)?[0] {
            b'.' => return Ok(false),
            // PROTO
            0x80 => drop(self.take(1)?),
            b'(' => self.stack.push(Value::Mark),
            // POP and POP_MARK. APPEND, APPENDS and BUILD: lists and the attributes of objects are not looked at.
            b'0' | b'a' | b'b' => drop(self.pop()?),
            b'1' | b'e' => drop(self.pop_to_mark()?),
            // NONE, NEWTRUE, NEWFALSE, EMPTY_LIST
            b'N' | 0x88 | 0x89 | b']' => self.stack.push(Value::Other),
            // BINFLOAT
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Other);
            }
            code @ (b'K' | b'M' | b'J' | 0x8a) => self.integer(code)?,
            // BINUNICODE
            b'X' => {
                let length = self.unsigned(4)? as usize;
                let text = String::from_utf8_lossy(self.take(length)?).into_owned();
                self.push(Node::Text(text));
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Global(format!("{module} {name}")));
            }
            b'q' => self.unsigned(1).and_then(|slot| self.put(slot))?,
            b'r' => self.unsigned(4).and_then(|slot| self.put(slot))?,
            b'h' => self.unsigned(1).and_then(|slot| self.get(slot))?,
            b'j' => self.unsigned(4).and_then(|slot| self.get(slot))?,
            b')' => self.push(Node::Tuple(Vec::new())),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items));
            }
            code @ 0x85..=0x87 => self.pop_tuple(usize::from(code - 0x84))?,
            b'}' => self.push(Node::Dict(Vec::new())),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value]);
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items);
            }
            // REDUCE, NEWOBJ
            b'R' | 0x81 => self.call()?,
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            code => return Err(format!("instruction {code:#04x} is none that torch writes")),
        }
        Ok(true)
    }

    /// BININT1, BININT2, BININT, LONG1.
    fn integer(&mut self, code: u8) -> Result<(), String> {
        let count = match code {
            b'K' => 1,
            b'M' => 2,
            b'J' => 4,
            _ => self.unsigned(1)? as usize,
        };
        if count > 8 {
            // A number larger than any that describes a tensor.
            self.take(count)?;
            self.stack.push(Value::Other);
            return Ok(());
        }
        let value = self.unsigned(count)?;
        let signed = matches!(code, b'J' | 0x8a) && count > 0;
        let shift = if signed { 64 - 8 * count } else { 0 };
        self.stack.push(Value::Int((value << shift) as i64 >> shift));
        Ok(())
    }
}
