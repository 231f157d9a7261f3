"""What operators look at in a terminal: chatloop top, chatloop status, chatloop trace."""
