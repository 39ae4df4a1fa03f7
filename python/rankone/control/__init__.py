"""Control: observers, attack detection, pursuit and evasion."""
