"""What a verdict rests on, episode by episode: written, kept, counted again."""
