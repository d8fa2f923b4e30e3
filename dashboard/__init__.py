"""What a person looks at: figures as pure functions and the Dash app around them."""
