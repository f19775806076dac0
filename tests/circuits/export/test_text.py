from circuits.export.text import _quoted


def test_text_is_escaped_for_dot():
    assert _quoted('say "hi"\\n') == '"say \\"hi\\"\\\\n"'
    assert _quoted("two\nlines") == '"two\\nlines"'
