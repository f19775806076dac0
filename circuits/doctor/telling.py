"""A report as text for a terminal: one line a check, and what to do where it is not good."""

import math
from textwrap import fill

from circuits.doctor.finding import Finding, Report, Subject

WIDTH = 96


def summary(report: Report) -> str:
    """The report in aligned columns; what is good takes one line."""
    on = f" on {report.task}" if report.task else ""
    parts = [f"{report.model}{on}: {_headline(report)}"]
    if report.ability:
        parts.append(report.ability)
    parts += [f"  {example}" for example in report.examples]
    for subject in ("model", "task"):
        parts += _part(report, subject)
    if report.rows_to_drop:
        parts.append(_rows_to_drop(report))
    parts += [f"not checked: {s.name} ({s.why})" for s in report.skipped]
    return "\n".join(
        fill(part, WIDTH, subsequent_indent="  ") if _is_long(part) else part for part in parts
    )


def _headline(report: Report) -> str:
    """The verdict, and which checks it hangs on, with what was measured there."""
    names = {
        verdict: [f"{f.name} ({_amount(f)})" for f in report.findings if f.verdict == verdict]
        for verdict in ("unusable", "doubtful")
    }
    told = [f"{verdict}: {', '.join(found)}" for verdict, found in names.items() if found]
    return "; ".join(told) or report.verdict


def _amount(finding: Finding) -> str:
    """What was measured, and what would be good: `scores add up` alone reads like a reason."""
    measured = f"{_number(finding.measured)} {finding.unit}".strip()
    return ", ".join(filter(None, (measured, _limit(finding))))


def _part(report: Report, subject: Subject) -> list[str]:
    findings = [finding for finding in report.findings if finding.subject == subject]
    if not findings:
        return []
    rows = [(f.verdict, f.name, _number(f.measured), f.unit, _limit(f)) for f in findings]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["", f"{subject}"]
    for finding, row in zip(findings, rows, strict=True):
        verdict, name, measured, unit, limit = row
        line = f"  {verdict:<{widths[0]}}  {name:<{widths[1]}}  {measured:>{widths[2]}} "
        lines.append(f"{line}{unit:<{widths[3]}}  {limit}".rstrip())
        if finding.verdict != "good":
            told = f"{finding.means} {finding.advice}".strip()
            indent = " " * (4 + widths[0])
            lines.append(fill(told, WIDTH, initial_indent=indent, subsequent_indent=indent))
    return [*lines, ""] if subject == "task" else lines


def _limit(finding: Finding) -> str:
    if not math.isfinite(finding.measured):
        return ""
    return f"at {'least' if finding.more_is_better else 'most'} {_number(finding.threshold)}"


def _number(value: float | int) -> str:
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == round(value) and abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}"


def _rows_to_drop(report: Report) -> str:
    rows = report.rows_to_drop
    shown = ", ".join(map(str, rows[:40])) + (", ..." if len(rows) > 40 else "")
    return f"rows to drop ({len(rows)}): {shown}"


def _is_long(part: str) -> bool:
    return len(part) > WIDTH and "\n" not in part
