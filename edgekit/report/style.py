"""How edgekit's HTML pages look: one style for all."""

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 2em auto; max-width: 1100px;
  padding: 0 1em }
table { border-collapse: collapse; margin-top: 1.5em } th, td { padding: .2em .7em; text-align: right }
td { white-space: nowrap }
th { border-bottom: 1px solid #888; vertical-align: bottom } tr:nth-child(even) td { background: #f5f5f5 }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left }
.note { color: #555 } svg text { font: 12px system-ui, sans-serif; fill: #1b1b1b } svg .axis { fill: #666 }
"""
