//! The schema as text, against the committed one: a change that breaks the wire fails here. An
//! addition fails too, and is accepted on purpose: read the difference against the rules in the
//! schema's head, then run the test with `INSTA_UPDATE=always`.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fmt::Write;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};
use relay_proto::FILE_DESCRIPTOR_SET;

#[test]
fn schema_is_the_committed_one() {
    let schema = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut text = String::new();
    for file in &schema.file {
        writeln!(text, "package {}", file.package()).unwrap();
        file.service.iter().for_each(|it| service(&mut text, it));
        file.message_type.iter().for_each(|it| message(&mut text, it));
        file.enum_type.iter().for_each(|it| enumeration(&mut text, it));
    }
    insta::assert_snapshot!(text);
}

fn service(text: &mut String, service: &ServiceDescriptorProto) {
    writeln!(text, "\nservice {}", service.name()).unwrap();
    for method in &service.method {
        let stream = |yes: bool| if yes { "stream " } else { "" };
        writeln!(
            text,
            "  {}({}{}) -> {}{}",
            method.name(),
            stream(method.client_streaming()),
            method.input_type(),
            stream(method.server_streaming()),
            method.output_type(),
        )
        .unwrap();
    }
}

fn message(text: &mut String, message: &DescriptorProto) {
    assert!(message.nested_type.is_empty(), "nested types have no rendering here");
    assert!(message.enum_type.is_empty(), "nested enums have no rendering here");
    writeln!(text, "\nmessage {}", message.name()).unwrap();
    for it in &message.field {
        field(text, message, it);
    }
    for range in &message.reserved_range {
        // The end of a range is exclusive.
        writeln!(text, "  reserved {}..{}", range.start(), range.end()).unwrap();
    }
    for name in &message.reserved_name {
        writeln!(text, "  reserved {name}").unwrap();
    }
}

fn field(text: &mut String, message: &DescriptorProto, field: &FieldDescriptorProto) {
    let presence = match (field.label(), field.oneof_index) {
        (Label::Repeated, _) => "repeated ".to_owned(),
        (_, Some(_)) if field.proto3_optional() => "optional ".to_owned(),
        (_, Some(index)) => {
            let index = usize::try_from(index).unwrap();
            format!("oneof {} ", message.oneof_decl[index].name())
        }
        _ => String::new(),
    };
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    writeln!(text, "  {:2} {presence}{kind} {}", field.number(), field.name()).unwrap();
}

fn enumeration(text: &mut String, enumeration: &EnumDescriptorProto) {
    writeln!(text, "\nenum {}", enumeration.name()).unwrap();
    for value in &enumeration.value {
        writeln!(text, "  {:2} {}", value.number(), value.name()).unwrap();
    }
}

/// Every message, field, enum value and method carries a comment: the schema is the reference.
#[test]
fn everything_in_the_schema_is_commented() {
    let schema = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut seen = 0;
    for file in &schema.file {
        for location in &file.source_code_info.as_ref().unwrap().location {
            if names_a_declaration(&location.path) {
                seen += 1;
                let comment = location.leading_comments();
                assert!(!comment.trim().is_empty(), "no comment at {:?}", location.path);
            }
        }
    }
    assert!(seen > 80, "only {seen} declarations seen");
}

/// Paths of messages, fields, oneofs, services, methods, enums and their values, as
/// `descriptor.proto` numbers them.
fn names_a_declaration(path: &[i32]) -> bool {
    matches!(path, [4..=6, _] | [4, _, 2 | 8, _] | [5 | 6, _, 2, _])
}
